// The scalar functions of `docs/numerics.md`, one sequence of IEEE operations each. Compiled with --fmad=false, so that a product
// and a sum are rounded apart unless `__fmaf_rn` joins them; no division or root is approximated, no subnormal is flushed.
#pragma once
#include "device.cuh"

// Inputs under one scale.
#define BLOCK 32
// Outputs of a panel.
#define PANEL 16
// Blocks of a segment: 512 inputs whose sum is taken in order.
#define SEGMENT 16
// Positions of a KV page, and of a chunk of the softmax.
#define PAGE 64
// 1.5 · 2²³: adding and subtracting it rounds to the nearest integer, ties to even.
#define ROUNDER 12582912.0f
#define ROUNDER_BITS 0x4b400000
#define INFINITY_BITS 0x7f800000u
// 2⁻⁹⁰: blocks whose greatest magnitude is below it are zero.
#define LEAST_MAGNITUDE __int_as_float((127 - 90) << 23)

// e^x (section 8).
DEVICE float exp_f32(float x) {
    float clamped = fminf(fmaxf(x, -87.0f), 88.0f);
    float shifted = __fmaf_rn(clamped, 1.44269504f, ROUNDER);
    float n = shifted - ROUNDER;
    float r = __fmaf_rn(n, -0.6933594f, clamped);
    r = __fmaf_rn(n, 2.1219444e-4f, r);
    float p = 1.0f / 5040.0f;
    p = __fmaf_rn(p, r, 1.0f / 720.0f);
    p = __fmaf_rn(p, r, 1.0f / 120.0f);
    p = __fmaf_rn(p, r, 1.0f / 24.0f);
    p = __fmaf_rn(p, r, 1.0f / 6.0f);
    p = __fmaf_rn(p, r, 0.5f);
    p = __fmaf_rn(p, r, 1.0f);
    p = __fmaf_rn(p, r, 1.0f);
    // The low bits of `shifted` are n in two's complement; moved to the exponent field they add n to it.
    u32 scaled = static_cast<u32>(__float_as_int(p)) + (static_cast<u32>(__float_as_int(shifted)) << 23);
    return x != x ? x : __int_as_float(static_cast<int>(scaled));
}

// x / (1 + e^−x).
DEVICE float silu_f32(float x) { return __fdiv_rn(x, 1.0f + exp_f32(-x)); }

// Tree over the 32 lanes of a warp from halves of `width` on; lane 0 has the sum.
DEVICE float tree_lanes(float lane, int width) {
    for (int half = width / 2; half > 0; half /= 2) {
        lane = lane + __shfl_down_sync(EVERY_LANE, lane, half);
    }
    return lane;
}

// Greatest over the lanes that differ in the bits below `width`; all of them have it. Order is of no consequence.
DEVICE u32 most_lanes(u32 lane, int width) {
    for (int half = width / 2; half > 0; half /= 2) {
        u32 other = __shfl_xor_sync(EVERY_LANE, lane, half);
        lane = other > lane ? other : lane;
    }
    return lane;
}

// Quantises an element of a block whose greatest magnitude has the bits `most` (section 3). `scale` is the block's.
DEVICE int quantized(float x, u32 most, float& scale) {
    float magnitude = __int_as_float(static_cast<int>(most));
    if (most >= INFINITY_BITS || magnitude < LEAST_MAGNITUDE) {
        scale = most >= INFINITY_BITS ? __int_as_float(0x7fffffff) : 0.0f;
        return 0;
    }
    scale = __fdiv_rn(magnitude, 127.0f);
    return static_cast<int>(static_cast<signed char>(__float_as_int(__fdiv_rn(x, scale) + ROUNDER) & 0xff));
}

DEVICE u32 magnitude_bits(float x) { return static_cast<u32>(__float_as_int(x)) & 0x7fffffffu; }

// Where activations lie: values `[row / 8][block][row % 8][32]` int8, scales `[row / 8][block][row % 8]` f32. Eight rows are the
// columns of one mma, so that a warp's fragment of a block is 256 bytes in a row.
DEVICE u64 activation_block(int row, int block, int blocks) {
    return (static_cast<u64>(row / 8) * blocks + block) * 8 + row % 8;
}

// One warp stores one block of a row: lane i has element i.
DEVICE void store_quantized(float x, int row, int block, int blocks, signed char* values, float* scales) {
    int lane = threadIdx.x % WARP;
    float scale;
    int q = quantized(x, most_lanes(magnitude_bits(x), WARP), scale);
    u64 at = activation_block(row, block, blocks);
    values[at * BLOCK + lane] = static_cast<signed char>(q);
    if (lane == 0) {
        scales[at] = scale;
    }
}

// Where the int8 of a stored matrix lie on the device: `[panel][block][lane][4 words]`, each lane's 16 bytes its fragment of an mma.
// Inputs 8t..8t+7 of a block stand in the mma's places 4t.. and 16 + 4t..; activations are read in the same order, and a sum of
// integers has no order. The byte of output r (of 16) and input k (of 32):
DEVICE int weight_byte(int r, int k) {
    int lane = r % 8 * 4 + k / 8, word = r / 8 + k % 8 / 4 * 2;
    return (lane * 4 + word) * 4 + k % 4;
}
