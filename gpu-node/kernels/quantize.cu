// The int8 form of rows: scale = most / 127, q = round(x / scale) in blocks of 32. And rows picked from others.
//
// x       f32 [rows][blocks · 32]; rows i32 [1]; values, scales as `activation_block` says
// picked  i32 [rows]: out[i] = x[picked[i]]
// grid    (rows, ⌈blocks / 8⌉), block 256: a warp a block. Bytes moved: rows · n · 5.125; gathering 4 more
// order   docs/numerics.md section 3
#include "numerics.cuh"

extern "C" __global__ void __launch_bounds__(256) quantize_f32(
    const float* __restrict__ x, const int* __restrict__ rows, int blocks, signed char* __restrict__ values,
    float* __restrict__ scales) {
    int row = blockIdx.x, block = blockIdx.y * 8 + threadIdx.x / WARP;
    if (row >= *rows || block >= blocks) {
        return;
    }
    float element = x[(static_cast<u64>(row) * blocks + block) * BLOCK + threadIdx.x % WARP];
    store_quantized(element, row, block, blocks, values, scales);
}

extern "C" __global__ void __launch_bounds__(256) gather_quantize_f32(
    const float* __restrict__ x, const int* __restrict__ picked, const int* __restrict__ rows, int blocks, float* __restrict__ out,
    signed char* __restrict__ values, float* __restrict__ scales) {
    int row = blockIdx.x, block = blockIdx.y * 8 + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= *rows || block >= blocks) {
        return;
    }
    float element = x[(static_cast<u64>(picked[row]) * blocks + block) * BLOCK + lane];
    out[(static_cast<u64>(row) * blocks + block) * BLOCK + lane] = element;
    store_quantized(element, row, block, blocks, values, scales);
}
