// Products of many rows: the sums of `matmul_skinny`, tiled so that each weight and each input is used from shared memory.
//
// weights s8 and f16 in panels (`Matrix`), x s8 and f32 (`activation_block`) with room for whole 128 rows, rows i32 [1],
//         out f32 [rows][outputs]
// grid    (⌈rows / 128⌉, groups of 8 panels; with a gate 4 of each matrix), block 512: 4 × 4 warps of 2 panels × 32 rows
// shared  4 stages of 2 blocks: weights 8,192 + 512 B, inputs 8,192 + 1,024 B; 71,680 B
// bytes   per CTA inputs · (128 · 1.0625 + 128 · 1.125); 2 · rows · outputs · inputs operations
// order   block by block, each segment of 16 added to the total (docs/numerics.md section 4)
#include "matmul.cuh"

#define TILE_PANELS 8
#define TILE_ROWS 16 // times 8
#define STAGES 4
#define CHUNK 2
#define THREADS 512
#define WARP_TILES 4
#define SUMS (2 * WARP_TILES * 4)
#define WEIGHT_BYTES (TILE_PANELS * CHUNK * PANEL * BLOCK)
#define WEIGHT_SCALE_BYTES (TILE_PANELS * CHUNK * PANEL * 2)
#define INPUT_BYTES (TILE_ROWS * CHUNK * 8 * BLOCK)
#define INPUT_SCALE_BYTES (TILE_ROWS * CHUNK * 8 * 4)
#define STAGE_BYTES (WEIGHT_BYTES + WEIGHT_SCALE_BYTES + INPUT_BYTES + INPUT_SCALE_BYTES)

template <int EPILOGUE>
DEVICE void prefill(
    const Matrices& all, const signed char* __restrict__ x, const float* __restrict__ x_scales, const int* __restrict__ rows,
    int blocks) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    int row_count = *rows, first_tile = blockIdx.x * TILE_ROWS;
    if (first_tile * 8 >= row_count) {
        return;
    }
    int group = blockIdx.y;
    Matrix matrix = EPILOGUE == GATE ? all.of[0] : matrix_of(all, group);
    constexpr int OWN_PANELS = EPILOGUE == GATE ? TILE_PANELS / 2 : TILE_PANELS;
    int first_panel = (group - matrix.first) * OWN_PANELS, last_panel = (matrix.outputs - 1) / PANEL;

    LAUNCHED_SHARED(memory);
    // A thread copies 16 bytes of weights and 16 of inputs a stage, and some 16 of scales: where from, and of which of the blocks.
    int slot = threadIdx.x / (THREADS / TILE_PANELS), byte = threadIdx.x * 16 % (CHUNK * PANEL * BLOCK);
    bool second = EPILOGUE == GATE && slot >= OWN_PANELS;
    // A panel beyond the end is computed as the last one and not stored.
    int panel = min(first_panel + (second ? slot - OWN_PANELS : slot), last_panel);
    const u8* weights_from = (second ? all.of[1].values : matrix.values) + static_cast<u64>(panel) * blocks * (PANEL * BLOCK) + byte;
    int weights_of = byte / (PANEL * BLOCK);
    byte = threadIdx.x * 16 % (CHUNK * 8 * BLOCK);
    const u8* inputs_from = reinterpret_cast<const u8*>(x) + byte;
    // There is room for whole tiles of 128 rows, so none is beyond the end.
    inputs_from += static_cast<u64>(first_tile + threadIdx.x / (THREADS / TILE_ROWS)) * blocks * (8 * BLOCK);
    int inputs_of = byte / (8 * BLOCK);
    // 32 bytes a block, 64 a piece of a stage: 4 threads.
    const u8* scales_from = nullptr;
    int scales_of = threadIdx.x / 2 % CHUNK, piece = threadIdx.x / 4;
    if (piece < TILE_PANELS) {
        bool of_second = EPILOGUE == GATE && piece >= OWN_PANELS;
        int of_panel = min(first_panel + (of_second ? piece - OWN_PANELS : piece), last_panel);
        const u16* from = of_second ? all.of[1].scales : matrix.scales;
        scales_from = reinterpret_cast<const u8*>(from + static_cast<u64>(of_panel) * blocks * PANEL) + threadIdx.x % 4 * 16;
    } else if (piece < TILE_PANELS + TILE_ROWS) {
        const float* from = x_scales + static_cast<u64>(first_tile + piece - TILE_PANELS) * blocks * 8;
        scales_from = reinterpret_cast<const u8*>(from) + threadIdx.x % 4 * 16;
    }
    u32 scales_to = piece < TILE_PANELS ? WEIGHT_BYTES : WEIGHT_BYTES + WEIGHT_SCALE_BYTES + INPUT_BYTES - WEIGHT_SCALE_BYTES;
    scales_to += threadIdx.x * 16;
    auto fetch = [&](int stage, int block) {
        u8* to = memory + stage * STAGE_BYTES;
        if (block + weights_of < blocks) {
            copy_16(to + threadIdx.x * 16, weights_from);
        }
        if (block + inputs_of < blocks) {
            copy_16(to + WEIGHT_BYTES + WEIGHT_SCALE_BYTES + threadIdx.x * 16, inputs_from);
        }
        if (scales_from && block + scales_of < blocks) {
            copy_16(to + scales_to, scales_from);
            scales_from += CHUNK * PANEL * 2;
        }
        weights_from += CHUNK * PANEL * BLOCK;
        inputs_from += CHUNK * 8 * BLOCK;
    };
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; stage++) {
        fetch(stage, stage * CHUNK);
        copies_commit();
    }

    // This warp's two panels and four tiles of eight rows. With a gate, its panels are the same outputs of both matrices.
    int tile = warp / 4 * WARP_TILES, low_panel = EPILOGUE == GATE ? warp % 4 : warp % 4 * 2;
    constexpr int PANEL_STEP = EPILOGUE == GATE ? OWN_PANELS : 1;
    float acc[2][WARP_TILES][4], total[2][WARP_TILES][4];
#pragma unroll
    for (int i = 0; i < SUMS; i++) {
        acc[i / (SUMS / 2)][i / 4 % WARP_TILES][i % 4] = total[i / (SUMS / 2)][i / 4 % WARP_TILES][i % 4] = 0.0f;
    }
    int stage = 0;
    for (int block = 0; block < blocks; block += CHUNK) {
        copies_wait<STAGES - 2>();
        // Everybody sees this stage, and has read the stage before, which is filled next.
        __syncthreads();
        fetch((stage + STAGES - 1) % STAGES, block + (STAGES - 1) * CHUNK);
        copies_commit();
        const u8* weights = memory + stage * STAGE_BYTES;
        const u16* weight_scales = reinterpret_cast<const u16*>(weights + WEIGHT_BYTES);
        const u8* inputs = weights + WEIGHT_BYTES + WEIGHT_SCALE_BYTES;
        const float* input_scales = reinterpret_cast<const float*>(inputs + INPUT_BYTES);
#pragma unroll
        for (int c = 0; c < CHUNK; c++) {
            if (block + c < blocks) {
                uint4 w[2];
                float low[2], high[2];
#pragma unroll
                for (int p = 0; p < 2; p++) {
                    int at = (low_panel + p * PANEL_STEP) * CHUNK + c;
                    w[p] = *reinterpret_cast<const uint4*>(weights + at * (PANEL * BLOCK) + lane * 16);
                    low[p] = f16_to_f32(weight_scales[at * PANEL + g]);
                    high[p] = f16_to_f32(weight_scales[at * PANEL + g + 8]);
                }
#pragma unroll
                for (int i = 0; i < WARP_TILES; i++) {
                    int at = (tile + i) * CHUNK + c;
                    uint2 in = *reinterpret_cast<const uint2*>(inputs + at * (8 * BLOCK) + g * BLOCK + t * 8);
                    float2 of_rows = *reinterpret_cast<const float2*>(input_scales + at * 8 + 2 * t);
                    add_block(acc[0][i], w[0], in, low[0], high[0], of_rows);
                    add_block(acc[1][i], w[1], in, low[1], high[1], of_rows);
                }
            }
        }
        if ((block + CHUNK) % SEGMENT == 0 || block + CHUNK >= blocks) {
#pragma unroll
            for (int i = 0; i < SUMS; i++) {
                total[i / (SUMS / 2)][i / 4 % WARP_TILES][i % 4] = total[i / (SUMS / 2)][i / 4 % WARP_TILES][i % 4] + acc[i / (SUMS / 2)][i / 4 % WARP_TILES][i % 4];
                acc[i / (SUMS / 2)][i / 4 % WARP_TILES][i % 4] = 0.0f;
            }
        }
        stage = stage + 1 == STAGES ? 0 : stage + 1;
    }

#pragma unroll
    for (int i = 0; i < WARP_TILES; i++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int row = (first_tile + tile + i) * 8 + 2 * t + e % 2;
#pragma unroll
            for (int p = 0; p < (EPILOGUE == GATE ? 1 : 2); p++) {
                int output = (first_panel + low_panel + p) * PANEL + g + e / 2 * 8;
                if (row < row_count && output < matrix.outputs) {
                    float* out = matrix.out + static_cast<u64>(row) * matrix.outputs + output;
                    if (EPILOGUE == GATE) {
                        *out = silu_f32(total[0][i][e]) * total[1][i][e];
                    } else {
                        *out = EPILOGUE == ADD ? *out + total[p][i][e] : total[p][i][e];
                    }
                }
            }
        }
    }
}

#define PREFILL(name, epilogue)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS) name(                                                                    \
        Matrices all, const signed char* __restrict__ x, const float* __restrict__ x_scales, const int* __restrict__ rows, int blocks) { \
        prefill<epilogue>(all, x, x_scales, rows, blocks);                                                                         \
    }

PREFILL(matmul_prefill_store, STORE)
PREFILL(matmul_prefill_add, ADD)
PREFILL(matmul_prefill_gate, GATE)
