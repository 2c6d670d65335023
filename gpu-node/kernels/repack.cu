// Turns a stored matrix into the device's form, in place: out[panel, block, lane, word] = in[panel, block, s, r] ^ 0x80.
//
// values  u8 [tiles][512], a tile is a block of a panel: in `[8 s][16 r][4]`, q + 128 (docs/numerics.md section 2); out as
//         `weight_byte` says, q
// grid    (⌈tiles / 8⌉), block 256: a warp a tile. Bytes moved: 2 · tiles · 512
// order   none: bytes are moved
#include "numerics.cuh"

extern "C" __global__ void __launch_bounds__(256) repack_s8(uint4* __restrict__ values, u64 tiles) {
    int lane = threadIdx.x % WARP;
    u64 tile = static_cast<u64>(blockIdx.x) * 8 + threadIdx.x / WARP;
    if (tile >= tiles) {
        return;
    }
    __shared__ u32 words[8][128];
    u32* own = words[threadIdx.x / WARP];
    uint4 in = values[tile * WARP + lane];
    own[lane * 4] = in.x, own[lane * 4 + 1] = in.y, own[lane * 4 + 2] = in.z, own[lane * 4 + 3] = in.w;
    // Words cross lanes.
    __syncwarp();
    // Word w of this lane: output g + 8 (w % 2), inputs 8 t + 4 (w / 2).
    int g = lane / 4, t = lane % 4;
    uint4 out;
    out.x = own[(2 * t) * PANEL + g] ^ 0x80808080u;
    out.y = own[(2 * t) * PANEL + g + 8] ^ 0x80808080u;
    out.z = own[(2 * t + 1) * PANEL + g] ^ 0x80808080u;
    out.w = own[(2 * t + 1) * PANEL + g + 8] ^ 0x80808080u;
    values[tile * WARP + lane] = out;
}
