// Stands in for `kernels/device.cuh`: the same names in plain C++, so that g++ compiles the kernels' own text.
//
// The threads of a block are fibers of one thread, run in turn from barrier to barrier. What the hardware leaves undefined is made
// visible: shared memory starts as garbage, a copy lands at its wait and not before, and lanes that don't meet stop the program.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Aligned as on the card; a load from another address is trapped.
struct alignas(8) uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct dim3 { unsigned x, y, z; };

namespace emulation {
struct Place { dim3 thread, block, block_size, grid_size; };
extern thread_local Place place;
extern thread_local u8* launched_shared;
// All threads of the block, or all lanes of the warp, have come here.
void meet_block();
void meet_warp();
// What this lane gives the others of its warp, and what lane `lane` gave at the last meeting.
void* offer();
const void* offered(int lane);
void copy_begin(void* to, const void* from);
void copies_commit();
void copies_wait(int pending);

template <class T> T exchanged(T own, int lane) {
    std::memcpy(offer(), &own, sizeof(T));
    meet_warp();
    T theirs;
    std::memcpy(&theirs, offered(lane), sizeof(T));
    return theirs;
}
} // namespace emulation

#define threadIdx (emulation::place.thread)
#define blockIdx (emulation::place.block)
#define blockDim (emulation::place.block_size)
#define gridDim (emulation::place.grid_size)
#define __global__
#define __device__
#define __forceinline__ inline
#define __constant__ static const
#define __shared__ static thread_local
#define __launch_bounds__(...)
#define __restrict__ __restrict

#define WARP 32
#define EVERY_LANE 0xffffffffu
#define DEVICE static inline
#define LAUNCHED_SHARED(name) u8* name = emulation::launched_shared

DEVICE int own_lane() { return static_cast<int>(threadIdx.x % WARP); }
DEVICE void __syncthreads() { emulation::meet_block(); }
DEVICE void __syncwarp() { emulation::meet_warp(); }
template <class T> DEVICE T __shfl_sync(u32, T own, int lane) { return emulation::exchanged(own, lane % WARP); }
template <class T> DEVICE T __shfl_down_sync(u32, T own, int by) {
    int lane = own_lane() + by;
    return emulation::exchanged(own, lane < WARP ? lane : own_lane());
}
template <class T> DEVICE T __shfl_up_sync(u32, T own, int by) {
    int lane = own_lane() - by;
    return emulation::exchanged(own, lane >= 0 ? lane : own_lane());
}
template <class T> DEVICE T __shfl_xor_sync(u32, T own, int by) { return emulation::exchanged(own, own_lane() ^ by); }
DEVICE int __all_sync(u32, int truth) {
    int all = 1;
    std::memcpy(emulation::offer(), &truth, sizeof truth);
    emulation::meet_warp();
    for (int lane = 0; lane < WARP; lane++) {
        int theirs;
        std::memcpy(&theirs, emulation::offered(lane), sizeof theirs);
        all = all && theirs;
    }
    return all;
}

template <class T> DEVICE T min(T a, T b) { return a < b ? a : b; }
template <class T> DEVICE T max(T a, T b) { return a > b ? a : b; }
DEVICE float __int_as_float(int bits) { float f; std::memcpy(&f, &bits, 4); return f; }
DEVICE float __int_as_float(u32 bits) { float f; std::memcpy(&f, &bits, 4); return f; }
DEVICE int __float_as_int(float f) { int bits; std::memcpy(&bits, &f, 4); return bits; }
DEVICE float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
DEVICE float __fdiv_rn(float a, float b) { return a / b; }
DEVICE float __fsqrt_rn(float a) { return std::sqrt(a); }

DEVICE float f16_to_f32(u16 half) {
    u32 sign = static_cast<u32>(half >> 15) << 31, exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 0) {
        float small = std::ldexp(static_cast<float>(fraction), -24);
        return sign ? -small : small;
    }
    u32 bits = exponent == 31 ? 0x7f800000u | fraction << 13 : (exponent + 112) << 23 | fraction << 13;
    return __int_as_float(sign | bits);
}

DEVICE u16 f32_to_f16(float wide) {
    u32 bits = static_cast<u32>(__float_as_int(wide)), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return static_cast<u16>(sign | 0x7fffu);
    }
    // 65,520 and more round to infinity.
    if (magnitude >= 0x477ff000u) {
        return static_cast<u16>(sign | 0x7c00u);
    }
    if (magnitude < 0x38800000u) {
        // Multiples of 2⁻²⁴; the default rounding is to nearest, ties to even.
        return static_cast<u16>(sign | static_cast<u32>(std::nearbyint(std::ldexp(__int_as_float(magnitude), 24))));
    }
    u32 rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return static_cast<u16>(sign | ((rounded >> 13) - (112u << 10)));
}

DEVICE void copy_16(void* shared, const void* global) { emulation::copy_begin(shared, global); }
DEVICE void copies_commit() { emulation::copies_commit(); }
template <int PENDING> DEVICE void copies_wait() { emulation::copies_wait(PENDING); }

// As the PTX manual places the elements of `mma.m16n8k32`, whatever the kernels believe.
DEVICE void mma_s8(int (&d)[4], uint4 a, uint2 b, int c) {
    struct Fragment { u32 a[4]; u32 b[2]; } own = {{a.x, a.y, a.z, a.w}, {b.x, b.y}};
    std::memcpy(emulation::offer(), &own, sizeof own);
    emulation::meet_warp();
    int group = own_lane() / 4, in_group = own_lane() % 4;
    for (int i = 0; i < 4; i++) {
        int row = group + (i >= 2 ? 8 : 0), column = in_group * 2 + (i & 1), sum = c;
        for (int lane = 0; lane < 4; lane++) {
            const Fragment* of_a = static_cast<const Fragment*>(emulation::offered(row % 8 * 4 + lane));
            const Fragment* of_b = static_cast<const Fragment*>(emulation::offered(column * 4 + lane));
            for (int half = 0; half < 2; half++) {
                u32 x = of_a->a[(row >= 8 ? 1 : 0) + 2 * half], y = of_b->b[half];
                for (int byte = 0; byte < 32; byte += 8) {
                    sum += static_cast<int8_t>(x >> byte) * static_cast<int8_t>(y >> byte);
                }
            }
        }
        d[i] = sum;
    }
}
