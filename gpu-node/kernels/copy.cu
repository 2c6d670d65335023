// Reads and writes as much as it can: the card's bandwidth, beside which everything else is measured.
//
// from, to u8 [pieces][16]; grid any, block 256. Bytes moved: 32 a piece
// order   none: bytes are moved
#include "device.cuh"

extern "C" __global__ void __launch_bounds__(256) copy_bytes(const uint4* __restrict__ from, uint4* __restrict__ to, u64 pieces) {
    u64 stride = static_cast<u64>(gridDim.x) * blockDim.x;
    u64 at = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x;
    // Four loads of a thread are under way at once.
    for (; at + 3 * stride < pieces; at += 4 * stride) {
        uint4 a = from[at], b = from[at + stride], c = from[at + 2 * stride], d = from[at + 3 * stride];
        to[at] = a, to[at + stride] = b, to[at + 2 * stride] = c, to[at + 3 * stride] = d;
    }
    for (; at < pieces; at += stride) {
        to[at] = from[at];
    }
}
