// out[i] = table[tokens[i]]: scale · q, one rounding.
//
// values  s8 [panels][blocks][512] as `repack` leaves them; scales f16 [panels][blocks][16]
// tokens  u32 [rows]; rows i32 [1]; out f32 [rows][blocks · 32]
// grid    (rows, ⌈blocks / 8⌉), block 256: a warp a block of inputs. Bytes moved: rows · inputs · (4 + 1.0625)
// order   one product an element
#include "numerics.cuh"

extern "C" __global__ void __launch_bounds__(256) embed_f32(
    const signed char* __restrict__ values, const u16* __restrict__ scales, const u32* __restrict__ tokens,
    const int* __restrict__ rows, int blocks, float* __restrict__ out) {
    int row = blockIdx.x, block = blockIdx.y * 8 + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= *rows || block >= blocks) {
        return;
    }
    u32 token = tokens[row];
    u64 tile = static_cast<u64>(token / PANEL) * blocks + block;
    int r = static_cast<int>(token % PANEL);
    float scale = f16_to_f32(scales[tile * PANEL + r]);
    float q = static_cast<float>(values[tile * (PANEL * BLOCK) + weight_byte(r, lane)]);
    out[(static_cast<u64>(row) * blocks + block) * BLOCK + lane] = scale * q;
}
