// What the products share: their operands and one block of the contract's sum.
#pragma once
#include "numerics.cuh"

// Matrices that are multiplied with one input, at most three; those after the last have `first` beyond every group.
struct Matrix {
    const u8* values;  // s8 [panels][blocks][512], as `repack` leaves them
    const u16* scales; // f16 [panels][blocks][16]
    float* out;        // f32 [rows][outputs]
    int outputs;
    int first; // the group of panels at which this matrix begins
};
struct Matrices {
    Matrix of[3];
};

#define STORE 0 // out = product
#define ADD 1   // out = out + product
#define GATE 2  // out = silu(product of the first matrix) · product of the second

// By comparisons, not by an index: a kernel parameter that is indexed by a variable moves to local memory.
DEVICE Matrix matrix_of(const Matrices& all, int group) {
    return group >= all.of[2].first ? all.of[2] : group >= all.of[1].first ? all.of[1] : all.of[0];
}

// acc = fma(scale_w · scale_x, f32(dot), acc) for 16 outputs and 8 rows. `low`, `high` are the scales of outputs g and g + 8,
// `of_rows` of rows 2t and 2t + 1. The dot product starts at the bits of 1.5 · 2²³: read as f32, it is that number plus the
// sum, which is below 2²², so the subtraction is exact and no conversion is needed.
DEVICE void add_block(float (&acc)[4], uint4 weights, uint2 inputs, float low, float high, float2 of_rows) {
    int dot[4];
    mma_s8(dot, weights, inputs, ROUNDER_BITS);
    acc[0] = __fmaf_rn(low * of_rows.x, __int_as_float(dot[0]) - ROUNDER, acc[0]);
    acc[1] = __fmaf_rn(low * of_rows.y, __int_as_float(dot[1]) - ROUNDER, acc[1]);
    acc[2] = __fmaf_rn(high * of_rows.x, __int_as_float(dot[2]) - ROUNDER, acc[2]);
    acc[3] = __fmaf_rn(high * of_rows.y, __int_as_float(dot[3]) - ROUNDER, acc[3]);
}
