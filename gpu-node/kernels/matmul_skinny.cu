// Products of few rows: out[row, o] = Σ_s Σ_{b in s} scale_w · scale_x · dot(b), weights streamed once.
//
// weights s8 and f16 in panels (`Matrix`), x s8 and f32 (`activation_block`), rows i32 [1], out f32 [rows][outputs];
//         gated outputs are quantised at once where a CTA has 32 of them (TILES ≤ 2), else f32
// grid    (⌈rows / (8 · TILES)⌉, groups of PANELS panels), block 256, one CTA per group and rows: neighbours in x share weights in L2
// shared  8 warps · STAGES · 2,176 B of weights, then partial sums 8 · 8 TILES · (16 PANELS + 4) · 4 B; in flight per CTA
//         (STAGES − 1) · 17 KB: 51 KB with 4 stages, 34 KB with 3
// bytes   1.0625 a weight; 1.125 · rows · inputs per CTA from L2
// order   warp w has the segments w, w + 8, … of 512 inputs; a segment is summed block by block in registers; after each round the
//         eight sums are added to the total in the order of the segments (docs/numerics.md section 4)
#include "matmul.cuh"

#define WARPS 8
// Tiles (a block of a panel) of one stage of one warp.
#define STAGE_TILES 4
#define STAGE_BYTES (STAGE_TILES * (PANEL * BLOCK + PANEL * 2))

template <int TILES, int PANELS, int STAGES, int EPILOGUE>
DEVICE void skinny(
    const Matrices& all, const signed char* __restrict__ x, const float* __restrict__ x_scales, const int* __restrict__ rows,
    int blocks, signed char* __restrict__ gated_values, float* __restrict__ gated_scales) {
    constexpr int CHUNK = STAGE_TILES / PANELS, OUTPUTS = PANELS * PANEL, TOKENS = TILES * 8, STRIDE = OUTPUTS + 4;
    // With a gate, half of the panels are the second matrix's.
    constexpr int OWN_PANELS = EPILOGUE == GATE ? PANELS / 2 : PANELS;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    int row_count = *rows, first_row = blockIdx.x * TOKENS;
    if (first_row >= row_count) {
        return;
    }
    int group = blockIdx.y;
    Matrix matrix = EPILOGUE == GATE ? all.of[0] : matrix_of(all, group);
    int first_panel = (group - matrix.first) * OWN_PANELS, last_panel = (matrix.outputs - 1) / PANEL;
    const u8* values[PANELS];
    // Lanes 0 to 7 copy a stage's scales, half a tile each: which tile's, and from where.
    const u8* scales = nullptr;
    int scales_of = lane / 2 % CHUNK;
#pragma unroll
    for (int p = 0; p < PANELS; p++) {
        bool second = p >= OWN_PANELS;
        // A panel beyond the end is computed as the last one and not stored.
        int panel = min(first_panel + (second ? p - OWN_PANELS : p), last_panel);
        values[p] = (second ? all.of[1].values : matrix.values) + static_cast<u64>(panel) * blocks * (PANEL * BLOCK);
        if (lane / 2 / CHUNK == p) {
            scales = reinterpret_cast<const u8*>((second ? all.of[1].scales : matrix.scales) + static_cast<u64>(panel) * blocks * PANEL);
            scales += lane % 2 * 16;
        }
    }

    LAUNCHED_SHARED(memory);
    u8* ring = memory + warp * STAGES * STAGE_BYTES;
    float* part = reinterpret_cast<float*>(memory + WARPS * STAGES * STAGE_BYTES);

    auto fetch = [&](int stage, int block) {
        u8* to = ring + stage * STAGE_BYTES;
#pragma unroll
        for (int p = 0; p < PANELS; p++) {
#pragma unroll
            for (int c = 0; c < CHUNK; c++) {
                int tile = p * CHUNK + c;
                if (block + c < blocks) {
                    copy_16(to + tile * (PANEL * BLOCK) + lane * 16, values[p] + static_cast<u64>(block + c) * (PANEL * BLOCK) + lane * 16);
                }
            }
        }
        if (lane < 2 * STAGE_TILES && block + scales_of < blocks) {
            copy_16(to + STAGE_TILES * (PANEL * BLOCK) + lane * 16, scales + static_cast<u64>(block + scales_of) * (PANEL * 2));
        }
    };
    // The chunks of this warp's segments, one after the other.
    auto following = [](int block) { return (block + CHUNK) % SEGMENT == 0 ? block + CHUNK + (WARPS - 1) * SEGMENT : block + CHUNK; };
    int ahead = warp * SEGMENT;
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; stage++) {
        fetch(stage, ahead);
        copies_commit();
        ahead = following(ahead);
    }

    constexpr int OUTS = OUTPUTS * TOKENS / (WARPS * WARP) > 0 ? OUTPUTS * TOKENS / (WARPS * WARP) : 1;
    float total[OUTS];
#pragma unroll
    for (int i = 0; i < OUTS; i++) {
        total[i] = 0.0f;
    }
    int segments = (blocks + SEGMENT - 1) / SEGMENT, stage = 0;
    for (int round = 0; round < segments; round += WARPS) {
        float acc[PANELS][TILES][4];
#pragma unroll
        for (int i = 0; i < PANELS * TILES * 4; i++) {
            acc[i / (TILES * 4)][i / 4 % TILES][i % 4] = 0.0f;
        }
        int begin = (round + warp) * SEGMENT, end = min(begin + SEGMENT, blocks);
        for (int block = begin; block < end; block += CHUNK) {
            uint2 inputs[CHUNK][TILES];
            float2 of_rows[CHUNK][TILES];
#pragma unroll
            for (int c = 0; c < CHUNK; c++) {
#pragma unroll
                for (int tile = 0; tile < TILES; tile++) {
                    u64 at = activation_block(first_row + tile * 8, min(block + c, blocks - 1), blocks);
                    inputs[c][tile] = *reinterpret_cast<const uint2*>(x + (at + g) * BLOCK + t * 8);
                    of_rows[c][tile] = *reinterpret_cast<const float2*>(x_scales + at + 2 * t);
                }
            }
            copies_wait<STAGES - 2>();
            // Every lane sees this stage's copies, and has read the stage before, which is filled next.
            __syncwarp();
            fetch((stage + STAGES - 1) % STAGES, ahead);
            copies_commit();
            ahead = following(ahead);
            const u8* from = ring + stage * STAGE_BYTES;
            const u16* of_panels = reinterpret_cast<const u16*>(from + STAGE_TILES * (PANEL * BLOCK));
#pragma unroll
            for (int c = 0; c < CHUNK; c++) {
                if (block + c < end) {
#pragma unroll
                    for (int p = 0; p < PANELS; p++) {
                        int at = p * CHUNK + c;
                        uint4 weights = *reinterpret_cast<const uint4*>(from + at * (PANEL * BLOCK) + lane * 16);
                        float low = f16_to_f32(of_panels[at * PANEL + g]), high = f16_to_f32(of_panels[at * PANEL + g + 8]);
#pragma unroll
                        for (int tile = 0; tile < TILES; tile++) {
                            add_block(acc[p][tile], weights, inputs[c][tile], low, high, of_rows[c][tile]);
                        }
                    }
                }
            }
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
        float* own = part + warp * TOKENS * STRIDE;
#pragma unroll
        for (int p = 0; p < PANELS; p++) {
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    own[(tile * 8 + 2 * t + i % 2) * STRIDE + p * PANEL + g + i / 2 * 8] = acc[p][tile][i];
                }
            }
        }
        // The sums of all warps are there.
        __syncthreads();
        int summands = min(WARPS, segments - round);
        for (int s = 0; s < summands; s++) {
#pragma unroll
            for (int i = 0; i < OUTS; i++) {
                int at = threadIdx.x + i * WARPS * WARP;
                if (OUTPUTS * TOKENS >= WARPS * WARP || at < OUTPUTS * TOKENS) {
                    total[i] = total[i] + part[(s * TOKENS + at / OUTPUTS) * STRIDE + at % OUTPUTS];
                }
            }
        }
        // They are read before the next round overwrites them.
        __syncthreads();
    }

    if (EPILOGUE == GATE) {
        // Both totals of an output are brought to one thread.
#pragma unroll
        for (int i = 0; i < OUTS; i++) {
            int at = threadIdx.x + i * WARPS * WARP;
            part[at / OUTPUTS * STRIDE + at % OUTPUTS] = total[i];
        }
        __syncthreads();
        constexpr int GATED = OUTPUTS / 2;
        for (int at = threadIdx.x; at < GATED * TOKENS; at += WARPS * WARP) {
            int token = at / GATED, o = at % GATED, row = first_row + token, output = first_panel * PANEL + o;
            float y = silu_f32(part[token * STRIDE + o]) * part[token * STRIDE + o + GATED];
            if (row >= row_count) {
                continue;
            }
            if (GATED == BLOCK) {
                store_quantized(y, row, output / BLOCK, matrix.outputs / BLOCK, gated_values, gated_scales);
            } else {
                matrix.out[static_cast<u64>(row) * matrix.outputs + output] = y;
            }
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < OUTS; i++) {
        int at = threadIdx.x + i * WARPS * WARP;
        int row = first_row + at / OUTPUTS, output = first_panel * PANEL + at % OUTPUTS;
        if (at < OUTPUTS * TOKENS && row < row_count && output < matrix.outputs) {
            float* out = matrix.out + static_cast<u64>(row) * matrix.outputs + output;
            *out = EPILOGUE == ADD ? *out + total[i] : total[i];
        }
    }
}

#define SKINNY(name, tiles, panels, stages, epilogue)                                                                              \
    extern "C" __global__ void __launch_bounds__(256) name(                                                                        \
        Matrices all, const signed char* __restrict__ x, const float* __restrict__ x_scales, const int* __restrict__ rows, int blocks, \
        signed char* __restrict__ gated_values, float* __restrict__ gated_scales) {                                                \
        skinny<tiles, panels, stages, epilogue>(all, x, x_scales, rows, blocks, gated_values, gated_scales);                       \
    }

SKINNY(matmul_skinny_store_8, 1, 1, 4, STORE)
SKINNY(matmul_skinny_store_16, 2, 2, 4, STORE)
SKINNY(matmul_skinny_store_32, 4, 2, 3, STORE)
SKINNY(matmul_skinny_add_8, 1, 1, 4, ADD)
SKINNY(matmul_skinny_add_16, 2, 2, 4, ADD)
SKINNY(matmul_skinny_add_32, 4, 2, 3, ADD)
SKINNY(matmul_skinny_gate_8, 1, 4, 4, GATE)
SKINNY(matmul_skinny_gate_16, 2, 4, 3, GATE)
SKINNY(matmul_skinny_gate_32, 4, 2, 3, GATE)
