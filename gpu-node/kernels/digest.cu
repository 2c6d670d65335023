// The proof's digest of a row: keccak-256 of its f32 elements, little-endian. All zeros when an element is not finite.
//
// x       f32 [rows][n], n even; rows i32 [1]; out u64 [rows][4], finite u32 [rows]
// grid    (rows), block 32: a lane holds a word of the state, [x + 5 y]
// bytes   4 n a row. One permutation a 136 bytes
// order   none: integers
#include "numerics.cuh"

#define RATE_WORDS 17

__constant__ u64 ROUND_CONSTANTS[24] = {
    0x0000000000000001ull, 0x0000000000008082ull, 0x800000000000808aull, 0x8000000080008000ull, 0x000000000000808bull, 0x0000000080000001ull,
    0x8000000080008081ull, 0x8000000000008009ull, 0x000000000000008aull, 0x0000000000000088ull, 0x0000000080008009ull, 0x000000008000000aull,
    0x000000008000808bull, 0x800000000000008bull, 0x8000000000008089ull, 0x8000000000008003ull, 0x8000000000008002ull, 0x8000000000000080ull,
    0x000000000000800aull, 0x800000008000000aull, 0x8000000080008081ull, 0x8000000000008080ull, 0x0000000080000001ull, 0x8000000080008008ull};
__constant__ int ROTATIONS[25] = {0, 1, 62, 28, 27, 36, 44, 6, 55, 20, 3, 10, 43, 25, 39, 41, 45, 15, 21, 8, 18, 2, 61, 56, 14};

DEVICE u64 rotated(u64 word, int by) { return by == 0 ? word : word << by | word >> (64 - by); }
DEVICE u64 of_lane(u64 word, int lane) { return __shfl_sync(EVERY_LANE, word, lane); }

extern "C" __global__ void __launch_bounds__(32) digest_keccak256(
    const float* __restrict__ x, const int* __restrict__ rows, int n, u64* __restrict__ out, u32* __restrict__ finite) {
    int row = blockIdx.x, lane = threadIdx.x;
    if (row >= *rows) {
        return;
    }
    const u32* words = reinterpret_cast<const u32*>(x + static_cast<u64>(row) * n);
    int of_state = lane < 25 ? lane : 0, column = of_state % 5, line = of_state / 5;
    int rotation = ROTATIONS[of_state];
    // out[x', y'] with x' = y, y' = 2 x + 3 y comes from (x, y): this lane, as (x', y'), reads x = x' + 3 y', y = x'.
    int source = (column + 3 * line) % 5 + 5 * column;
    u64 state = 0;
    bool good = true;
    int pairs = n / 2;
    for (int first = 0; first <= pairs; first += RATE_WORDS) {
        int pair = first + lane;
        if (lane < RATE_WORDS) {
            u64 word = 0;
            if (pair < pairs) {
                u32 low = words[2 * pair], high = words[2 * pair + 1];
                good = good && (low & 0x7fffffffu) < INFINITY_BITS && (high & 0x7fffffffu) < INFINITY_BITS;
                word = static_cast<u64>(high) << 32 | low;
            }
            // The message ends with 01, the last block with 80.
            word ^= pair == pairs ? 1ull : 0ull;
            word ^= lane == RATE_WORDS - 1 && first + RATE_WORDS > pairs ? 1ull << 63 : 0ull;
            state ^= word;
        }
        for (int round = 0; round < 24; round++) {
            u64 parity = state;
            parity ^= of_lane(state, (of_state + 5) % 25);
            parity ^= of_lane(state, (of_state + 10) % 25);
            parity ^= of_lane(state, (of_state + 15) % 25);
            parity ^= of_lane(state, (of_state + 20) % 25);
            state ^= of_lane(parity, (column + 4) % 5) ^ rotated(of_lane(parity, (column + 1) % 5), 1);
            state = of_lane(rotated(state, rotation), source);
            u64 next = of_lane(state, line * 5 + (column + 1) % 5), after = of_lane(state, line * 5 + (column + 2) % 5);
            state ^= ~next & after;
            if (lane == 0) {
                state ^= ROUND_CONSTANTS[round];
            }
        }
    }
    good = __all_sync(EVERY_LANE, good) != 0;
    if (lane < 4) {
        out[static_cast<u64>(row) * 4 + lane] = good ? state : 0ull;
    }
    if (lane == 0) {
        finite[row] = good ? 1u : 0u;
    }
}
