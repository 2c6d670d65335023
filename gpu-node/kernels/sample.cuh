// What sampling does with a whole block of threads: sorting of keys, sums in f64 whose order is free, and where a sum passes a number.
#pragma once
#include "numerics.cuh"

#define THREADS 1024
// Keys that are sorted at once, two a thread.
#define LIST (2 * THREADS)

// A block's shared memory.
struct Room {
    u64 list[LIST];
    double sums[WARP + 1];
    u64 best[WARP];
    u32 most[WARP];
    int good[WARP];
    int found;
};

// A total order: −0 is below +0.
DEVICE u32 ordered(float x) {
    u32 bits = static_cast<u32>(__float_as_int(x));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
DEVICE float unordered(u32 key) { return __int_as_float(static_cast<int>(key & 0x80000000u ? key & 0x7fffffffu : ~key)); }
// What is greater has the greater key, of equals the lower token. No key is 0.
DEVICE u64 key_of(u32 rank, u32 token) { return static_cast<u64>(rank) << 32 | (0xffffffffu - token); }
DEVICE u32 rank_of(u64 key) { return static_cast<u32>(key >> 32); }
DEVICE u32 token_of(u64 key) { return 0xffffffffu - static_cast<u32>(key); }

DEVICE u64 greatest_lane(u64 key) {
    for (int half = WARP / 2; half > 0; half /= 2) {
        u64 other = __shfl_xor_sync(EVERY_LANE, key, half);
        key = other > key ? other : key;
    }
    return key;
}

// Descending.
DEVICE void sort(u64* list) {
#pragma unroll 1
    for (int width = 2; width <= LIST; width *= 2) {
#pragma unroll 1
        for (int apart = width / 2; apart > 0; apart /= 2) {
            // The pairs of the round before are in place.
            __syncthreads();
            int thread = threadIdx.x, low = 2 * thread - (thread & (apart - 1));
            u64 first = list[low], second = list[low + apart];
            if ((first < second) == ((low & width) == 0)) {
                list[low] = second, list[low + apart] = first;
            }
        }
    }
    // Sorted for everybody.
    __syncthreads();
}

// Sum of all lanes up to this one.
DEVICE double upto_lane(double own) {
    for (int by = 1; by < WARP; by *= 2) {
        double other = __shfl_up_sync(EVERY_LANE, own, by);
        own = static_cast<int>(threadIdx.x % WARP) >= by ? own + other : own;
    }
    return own;
}

DEVICE double before_lane(double upto) {
    double before = __shfl_up_sync(EVERY_LANE, upto, 1);
    return threadIdx.x % WARP == 0 ? 0.0 : before;
}

// Sum of all threads before this one. `sums` then has the sums before each warp, and of all. Only additions, so that the bound holds.
DEVICE double before_thread(double own, double* sums) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    double upto = upto_lane(own);
    // Nobody reads older sums any more.
    __syncthreads();
    if (lane == WARP - 1) {
        sums[warp] = upto;
    }
    // Every warp's sum is there.
    __syncthreads();
    if (warp == 0) {
        double upto_warp = upto_lane(sums[lane]);
        sums[lane] = before_lane(upto_warp);
        if (lane == WARP - 1) {
            sums[WARP] = upto_warp;
        }
    }
    // So are the sums before them.
    __syncthreads();
    return sums[warp] + before_lane(upto);
}

DEVICE double sum_of(double own, Room& room) {
    before_thread(own, room.sums);
    return room.sums[WARP];
}

// The element of [begin, end) with which the running sum passes `target`, `before` being the sum in front of them; −1 where that is
// nearer than `margin`. A sum of 0 has no candidate in it, so the element behind it is the first one.
template <class Value> DEVICE int passing(Value value, int begin, int end, double before, double target, double margin, Room& room) {
    int run = (end - begin + THREADS - 1) / THREADS, from = begin + static_cast<int>(threadIdx.x) * run, to = min(from + run, end);
    double own = 0.0;
    for (int i = from; i < to; i++) {
        own += value(i);
    }
    double below = before + before_thread(own, room.sums);
    if (threadIdx.x == 0) {
        room.found = -1;
    }
    // Before anybody finds it.
    __syncthreads();
    for (int i = from; i < to; i++) {
        double upto = below + value(i);
        if (upto - target > margin && (below == 0.0 || target - below > margin)) {
            room.found = i;
        }
        below = upto;
    }
    // Somebody has, or nobody does.
    __syncthreads();
    return room.found;
}
