// The instructions that CUDA C has no word for, one function each. Every kernel includes this file; the emulator of the tests
// (`gpu-node/tests/emulation/device.cuh`) has the same names in plain C++, so that the kernels' own text is what it runs.
//
// Header-free: NVRTC gets no file from a CUDA toolkit.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define WARP 32
#define EVERY_LANE 0xffffffffu
#define DEVICE __device__ __forceinline__
// Memory whose size the launch gives, 16-byte aligned.
#define LAUNCHED_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

// Exact.
DEVICE float f16_to_f32(u16 half) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(half));
    return wide;
}

// To nearest, ties to even.
DEVICE u16 f32_to_f16(float wide) {
    u16 half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(wide));
    return half;
}

// 16 bytes from global to shared memory, beside the first-level cache. Done after `copies_wait`, for this thread; for others
// after a barrier behind it.
DEVICE void copy_16(void* shared, const void* global) {
    u32 to = static_cast<u32>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}

// Closes a group of copies; an empty group is one too.
DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most `PENDING` of the newest groups are under way.
template <int PENDING> DEVICE void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

// d = a · b + c for int8: a 16 × 32, b 32 × 8, exact in int32. Fragments as `mma.m16n8k32` has them: with g = lane / 4 and
// t = lane % 4, a.x is row g, a.y row g + 8 at inputs 4t..4t+3, a.z and a.w the same at 16 + 4t; b0 and b1 are column g at these
// inputs; d[0], d[1] are row g, columns 2t, 2t + 1, d[2], d[3] row g + 8. Every element of c is the same number.
DEVICE void mma_s8(int (&d)[4], uint4 a, uint2 b, int c) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y), "r"(c));
}
