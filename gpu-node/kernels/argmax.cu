// The greatest logit of each row, of equal ones the lowest id; what temperature 0 draws when nothing else changes the logits.
//
// logits  f32 [rows][vocabulary]; rows i32 [1]; out u32 [rows][2]: id, and 1 when every logit is finite
// grid    (rows), block 1024. Bytes moved: rows · vocabulary · 4
// order   of no consequence: comparisons
#include "numerics.cuh"

#define THREADS 1024

// Greater logits have greater keys, of equal ones the lower id. −0 and +0 are equal.
DEVICE u64 key_of(float logit, u32 id) {
    u32 bits = static_cast<u32>(__float_as_int(logit == 0.0f ? 0.0f : logit));
    u32 ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return static_cast<u64>(ordered) << 32 | (0xffffffffu - id);
}

DEVICE u64 greater_lane(u64 key) {
    for (int half = WARP / 2; half > 0; half /= 2) {
        u64 other = __shfl_xor_sync(EVERY_LANE, key, half);
        key = other > key ? other : key;
    }
    return key;
}

extern "C" __global__ void __launch_bounds__(THREADS) argmax_f32(
    const float* __restrict__ logits, const int* __restrict__ rows, int vocabulary, u32* __restrict__ out) {
    int row = blockIdx.x, thread = threadIdx.x;
    if (row >= *rows) {
        return;
    }
    const float* from = logits + static_cast<u64>(row) * vocabulary;
    u64 key = 0;
    int good = 1;
    for (int id = thread; id < vocabulary; id += THREADS) {
        float logit = from[id];
        good &= magnitude_bits(logit) < INFINITY_BITS;
        u64 own = key_of(logit, static_cast<u32>(id));
        key = own > key ? own : key;
    }
    __shared__ u64 keys[WARP];
    __shared__ int goods[WARP];
    key = greater_lane(key);
    good = __all_sync(EVERY_LANE, good);
    if (thread % WARP == 0) {
        keys[thread / WARP] = key;
        goods[thread / WARP] = good;
    }
    // Every warp's winner is there.
    __syncthreads();
    if (thread < WARP) {
        key = greater_lane(keys[thread]);
        good = __all_sync(EVERY_LANE, goods[thread]);
        if (thread == 0) {
            out[2 * row] = 0xffffffffu - static_cast<u32>(key);
            out[2 * row + 1] = good ? 1u : 0u;
        }
    }
}
