// Of each row: biases, norms of single heads, rotation of queries and keys; keys and values into their page.
//
//   (x, y) = (h[i], h[i + head_dim / 2]):  (x · cos − y · sin) · m,  (y · cos + x · sin) · m;  m = 1/√head_dim for queries, 1 for keys
//
// q       f32 [rows][heads · head_dim], rotated in place; k, v f32 [rows][kv_heads · head_dim]
// biases  f32, null where the model has none; gains f32 [head_dim], null where it norms no heads
// cos, sin f32 [positions][head_dim / 2]; cache f16 (`Cache`), written at the row's position
// grid    (rows, ⌈(heads + 2 kv_heads) / 4⌉), block 128: a warp a head
// bytes   rows · head_dim · (8 heads + 4 kv_heads · 2 + 4 kv_heads)
// order   docs/numerics.md sections 5 and 6; a head's sum of squares is that of 128 lanes, of which a head fills the first ones
#include "cache.cuh"

#define HEAD_MAX 256

struct Heads {
    float* q;
    const float* k;
    const float* v;
    const float* q_bias;
    const float* k_bias;
    const float* v_bias;
    const float* q_gain;
    const float* k_gain;
    const float* cos;
    const float* sin;
    int heads;
    float eps;
};

extern "C" __global__ void __launch_bounds__(128) rope_append_f32(Heads all, Cache cache, Placement placement, const int* __restrict__ rows) {
    int row = blockIdx.x, lane = threadIdx.x % WARP, index = blockIdx.y * 4 + threadIdx.x / WARP;
    if (row >= *rows || index >= all.heads + 2 * cache.kv_heads) {
        return;
    }
    __shared__ float heads[4][HEAD_MAX];
    float* own = heads[threadIdx.x / WARP];
    int head_dim = cache.head_dim, half = head_dim / 2, position = placement.positions[row];
    bool is_query = index < all.heads, is_value = index >= all.heads + cache.kv_heads;
    int head = is_query ? index : is_value ? index - all.heads - cache.kv_heads : index - all.heads;
    int width = (is_query ? all.heads : cache.kv_heads) * head_dim;
    const float* from = (is_query ? all.q : is_value ? all.v : all.k) + static_cast<u64>(row) * width + head * head_dim;
    const float* bias = is_query ? all.q_bias : is_value ? all.v_bias : all.k_bias;
    const float* gain = is_query ? all.q_gain : all.k_gain;

    float lanes[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < HEAD_MAX / WARP; i++) {
        int d = lane + i * WARP;
        if (d < head_dim) {
            float x = bias ? from[d] + bias[head * head_dim + d] : from[d];
            own[d] = x;
            lanes[i % 4] = __fmaf_rn(x, x, lanes[i % 4]);
        }
    }
    if (!is_value && gain) {
        float total = tree_lanes((lanes[0] + lanes[2]) + (lanes[1] + lanes[3]), WARP);
        total = __shfl_sync(EVERY_LANE, total, 0);
        float factor = __fdiv_rn(1.0f, __fsqrt_rn(__fdiv_rn(total, static_cast<float>(head_dim)) + all.eps));
        for (int d = lane; d < head_dim; d += WARP) {
            own[d] = own[d] * factor * gain[d];
        }
    }
    // Pairs cross lanes.
    __syncwarp();

    u16* keys = head_page(cache, placement.tables[placement.table_starts[row] + position / PAGE], head);
    int slot = position % PAGE;
    if (is_value) {
        u16* values = keys + (PAGE + slot) * head_dim;
        for (int d = lane; d < head_dim; d += WARP) {
            values[d] = f32_to_f16(own[d]);
        }
        return;
    }
    float m = is_query ? __fdiv_rn(1.0f, __fsqrt_rn(static_cast<float>(head_dim))) : 1.0f;
    for (int i = lane; i < half; i += WARP) {
        float x = own[i], y = own[i + half];
        float cos = all.cos[static_cast<u64>(position) * half + i], sin = all.sin[static_cast<u64>(position) * half + i];
        float low = (x * cos - y * sin) * m, high = (y * cos + x * sin) * m;
        if (is_query) {
            float* q = all.q + static_cast<u64>(row) * width + head * head_dim;
            q[i] = low, q[i + half] = high;
        } else {
            keys[i * PAGE + slot] = f32_to_f16(low), keys[(i + half) * PAGE + slot] = f32_to_f16(high);
        }
    }
}
