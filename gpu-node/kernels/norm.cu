// out = (x · factor) · gain with factor = 1 / sqrt(Tree(lanes) / n + eps), and its int8 form for the product that follows.
//
// x       f32 [rows][n], n a multiple of 32; gain f32 [n]; rows i32 [1]
// out     f32 [rows][n]; values, scales as `activation_block` says
// grid    (rows), block 128: a thread is one of the contract's 128 lanes. Bytes moved: rows · n · (8 + 4 + 1.125), gain 4 n
// order   lane j takes x[j], x[j + 128], … by fma, then halves are added (docs/numerics.md section 5); blocks as in section 3
#include "numerics.cuh"

#define LANES 128

extern "C" __global__ void __launch_bounds__(LANES) norm_quantize_f32(
    const float* __restrict__ x, const float* __restrict__ gain, const int* __restrict__ rows, int n, float eps,
    float* __restrict__ out, signed char* __restrict__ values, float* __restrict__ scales) {
    int row = blockIdx.x, thread = threadIdx.x;
    if (row >= *rows) {
        return;
    }
    const float* from = x + static_cast<u64>(row) * n;
    float sum = 0.0f;
    for (int k = thread; k < n; k += LANES) {
        sum = __fmaf_rn(from[k], from[k], sum);
    }
    __shared__ float lanes[LANES];
    lanes[thread] = sum;
    // The upper halves are other warps'.
    __syncthreads();
    if (thread < WARP) {
        float low = lanes[thread] + lanes[thread + 64], high = lanes[thread + 32] + lanes[thread + 96];
        float total = tree_lanes(low + high, WARP);
        if (thread == 0) {
            lanes[0] = __fdiv_rn(1.0f, __fsqrt_rn(__fdiv_rn(total, static_cast<float>(n)) + eps));
        }
    }
    // Everybody waits for the factor.
    __syncthreads();
    float factor = lanes[0];
    int blocks = n / BLOCK;
    for (int block = thread / WARP; block < blocks; block += LANES / WARP) {
        int k = block * BLOCK + thread % WARP;
        float y = from[k] * factor * gain[k];
        out[static_cast<u64>(row) * n + k] = y;
        store_quantized(y, row, block, blocks, values, scales);
    }
}
