// Chunks of split attention, merged in ascending order: out[row, head] = value · (1 / sum).
//
// partials f32 [tile][head][chunk][head_dim + 2]: values, greatest score, sum of weights, as `attention` leaves them; a tile is a row
// out     int8 activations [rows][heads · head_dim] (`activation_block`), and f32 unless null
// grid    (tiles, ⌈heads / 4⌉), block 128: a warp a head. Bytes moved: 4 · (head_dim + 2) a chunk and head
// order   docs/numerics.md section 7: the first chunk as it is, each next one into what is merged so far
#include "cache.cuh"

#define WARPS 4
#define HEAD_MAX 256

extern "C" __global__ void __launch_bounds__(128) attention_merge_f32(Attention all, Cache cache, Placement placement) {
    int tile = blockIdx.x, head = blockIdx.y * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP, head_dim = cache.head_dim;
    if (tile >= all.tile_count || all.tiles[2 * tile + 1] == 0 || head >= all.heads) {
        return;
    }
    int row = all.tiles[2 * tile];
    int position = placement.positions[row];
    int begin = first_position(position, all.window) / PAGE, end = position / PAGE + 1;
    const float* partial = all.partials + ((static_cast<u64>(tile) * all.heads + head) * all.chunks_max + begin) * (head_dim + 2);
    float value[HEAD_MAX / WARP], most = partial[head_dim], sum = partial[head_dim + 1];
#pragma unroll
    for (int i = 0; i < HEAD_MAX / WARP; i++) {
        value[i] = i * WARP < head_dim ? partial[i * WARP + lane] : 0.0f;
    }
    for (int chunk = begin + 1; chunk < end; chunk++) {
        partial += head_dim + 2;
        float chunk_most = partial[head_dim], greater = fmaxf(most, chunk_most);
        float a = exp_f32(most - greater), b = exp_f32(chunk_most - greater);
        most = greater;
        sum = __fmaf_rn(partial[head_dim + 1], b, sum * a);
#pragma unroll
        for (int i = 0; i < HEAD_MAX / WARP; i++) {
            if (i * WARP < head_dim) {
                value[i] = __fmaf_rn(partial[i * WARP + lane], b, value[i] * a);
            }
        }
    }
    float inverse = __fdiv_rn(1.0f, sum);
    int blocks = all.heads * head_dim / BLOCK;
#pragma unroll
    for (int i = 0; i < HEAD_MAX / WARP; i++) {
        if (i * WARP < head_dim) {
            float out = value[i] * inverse;
            store_quantized(out, row, head * (head_dim / BLOCK) + i, blocks, all.values, all.scales);
            if (all.out) {
                all.out[(static_cast<u64>(row) * all.heads + head) * head_dim + i * WARP + lane] = out;
            }
        }
    }
}
