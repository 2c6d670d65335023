// out[row, head] = softmax(q · K) · V over the positions in reach, in chunks of 64, which are the pages.
//
// q       f32 [rows][heads · head_dim], rotated and scaled; cache f16 (`Cache`), a page a chunk
// tiles   i32 [tiles][2]: first row and number of rows of one sequence, whose keys a CTA uses for all of them; 0 rows: no tile
// out     int8 activations [rows][heads · head_dim] (`activation_block`), and f32 unless null
// whole   grid (tiles, kv_heads · head slices): a CTA merges all chunks itself: prompts, and batches that fill the card
// split   grid (slots, kv_heads · head slices, tiles), a slot has the chunks slot, slot + slots, …: few rows with long contexts, a
//         tile a row; partials f32 [tile][head][chunk][head_dim + 2], merged by `attention_merge`: grid (tiles, ⌈heads / 4⌉), a warp a head
// block   128. 4 warps · QUERIES query vectors (row, head of the group), so that a group's heads share what is read
// shared  keys 128 · head_dim B, values the same, queries 16 · QUERIES · head_dim B, weights 1,024 · QUERIES B
// bytes   256 · head_dim a chunk and key/value head, once per CTA. While scores are computed values are under way, and back
// order   docs/numerics.md section 7: a score's dimensions and a value's positions ascending by fma, chunks merged ascending
#include "cache.cuh"

#define WARPS 4

template <int DIMS> DEVICE void load_f16(const u16* from, float (&to)[DIMS]) {
    u32 words[DIMS / 2];
    if (DIMS == 8) {
        uint4 four = *reinterpret_cast<const uint4*>(from);
        words[0] = four.x, words[1 % (DIMS / 2)] = four.y, words[2 % (DIMS / 2)] = four.z, words[3 % (DIMS / 2)] = four.w;
    } else if (DIMS == 4) {
        uint2 two = *reinterpret_cast<const uint2*>(from);
        words[0] = two.x, words[1 % (DIMS / 2)] = two.y;
    } else {
        words[0] = *reinterpret_cast<const u32*>(from);
    }
#pragma unroll
    for (int i = 0; i < DIMS; i++) {
        to[i] = f16_to_f32(static_cast<u16>(words[i / 2] >> (i % 2 * 16)));
    }
}

template <int QUERIES, int DIMS, bool SPLIT> DEVICE void attend(const Attention& all, const Cache& cache, const Placement& placement) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, head_dim = cache.head_dim;
    int tile = SPLIT ? blockIdx.z : blockIdx.x;
    if (tile >= all.tile_count) {
        return;
    }
    int first_row = all.tiles[2 * tile], tile_rows = all.tiles[2 * tile + 1];
    if (tile_rows == 0) {
        return;
    }
    // The group's heads, in slices of at most all query vectors.
    int group = all.heads / cache.kv_heads, slice_heads = min(group, WARPS * QUERIES);
    int slices = (group + slice_heads - 1) / slice_heads, kv_head = blockIdx.y / slices, slice = blockIdx.y % slices;

    LAUNCHED_SHARED(memory);
    u16* keys = reinterpret_cast<u16*>(memory);
    u16* values = keys + PAGE * head_dim;
    float* queries = reinterpret_cast<float*>(values + PAGE * head_dim) + warp * QUERIES * head_dim;
    float* weights = reinterpret_cast<float*>(values + PAGE * head_dim) + WARPS * QUERIES * head_dim + warp * QUERIES * PAGE;

    int rows[QUERIES], heads[QUERIES], firsts[QUERIES], ends[QUERIES];
#pragma unroll
    for (int j = 0; j < QUERIES; j++) {
        int vector = warp * QUERIES + j;
        rows[j] = first_row + vector / slice_heads;
        int of_group = slice * slice_heads + vector % slice_heads;
        heads[j] = kv_head * group + of_group;
        bool there = vector / slice_heads < tile_rows && of_group < group;
        int position = there ? placement.positions[rows[j]] : 0;
        firsts[j] = there ? first_position(position, all.window) : 0;
        // An absent vector reaches nothing.
        ends[j] = there ? position + 1 : 0;
        for (int d = lane; d < head_dim; d += WARP) {
            queries[j * head_dim + d] = there ? all.q[(static_cast<u64>(rows[j]) * all.heads + heads[j]) * head_dim + d] : 0.0f;
        }
    }
    __syncwarp();

    // Of all rows of the tile: they ascend.
    int begin = first_position(placement.positions[first_row], all.window) / PAGE;
    int end = placement.positions[first_row + tile_rows - 1] / PAGE + 1;
    int step = 1;
    if (SPLIT) {
        step = gridDim.x;
        // The slot's first chunk that is not before `begin`.
        begin += (static_cast<int>(blockIdx.x) + step - begin % step) % step;
    }
    const u32* table = placement.tables + placement.table_starts[first_row];
    auto fetch = [&](u16* to, int chunk, int offset) {
        if (chunk < end) {
            const u16* from = head_page(cache, table[chunk], kv_head) + offset;
            for (int at = threadIdx.x * 8; at < PAGE * head_dim; at += WARPS * WARP * 8) {
                copy_16(to + at, from + at);
            }
        }
    };
    fetch(keys, begin, 0);
    copies_commit();

    float value[QUERIES][DIMS], most[QUERIES], sum[QUERIES];
    // A bit for each query vector: arrays of truths would move to local memory.
    u32 begun = 0;
#pragma unroll
    for (int j = 0; j < QUERIES; j++) {
        most[j] = sum[j] = 0.0f;
#pragma unroll
        for (int i = 0; i < DIMS; i++) {
            value[j][i] = 0.0f;
        }
    }
    int own_dim = lane * DIMS;
    for (int chunk = begin; chunk < end; chunk += step) {
        fetch(values, chunk, PAGE * head_dim);
        copies_commit();
        copies_wait<1>();
        // The keys are there for everybody.
        __syncthreads();
        float scores[QUERIES][2];
#pragma unroll
        for (int j = 0; j < QUERIES; j++) {
            scores[j][0] = scores[j][1] = 0.0f;
        }
        for (int d = 0; d < head_dim; d += 4) {
            float4 q[QUERIES];
#pragma unroll
            for (int j = 0; j < QUERIES; j++) {
                q[j] = *reinterpret_cast<const float4*>(queries + j * head_dim + d);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                // Positions 2 lane and 2 lane + 1.
                u32 two = *reinterpret_cast<const u32*>(keys + (d + i) * PAGE + 2 * lane);
                float low = f16_to_f32(static_cast<u16>(two)), high = f16_to_f32(static_cast<u16>(two >> 16));
#pragma unroll
                for (int j = 0; j < QUERIES; j++) {
                    float x = i == 0 ? q[j].x : i == 1 ? q[j].y : i == 2 ? q[j].z : q[j].w;
                    scores[j][0] = __fmaf_rn(x, low, scores[j][0]);
                    scores[j][1] = __fmaf_rn(x, high, scores[j][1]);
                }
            }
        }

        float old_factor[QUERIES], new_factor[QUERIES], chunk_most[QUERIES], chunk_sum[QUERIES];
        u32 reached = 0;
#pragma unroll
        for (int j = 0; j < QUERIES; j++) {
            int from = max(firsts[j] - chunk * PAGE, 0), to = min(ends[j] - chunk * PAGE, PAGE);
            if (from >= to) {
                continue;
            }
            reached |= 1u << j;
            bool low = 2 * lane >= from && 2 * lane < to, high = 2 * lane + 1 >= from && 2 * lane + 1 < to;
            float greatest = fmaxf(low ? scores[j][0] : -__int_as_float(INFINITY_BITS), high ? scores[j][1] : -__int_as_float(INFINITY_BITS));
#pragma unroll
            for (int half = WARP / 2; half > 0; half /= 2) {
                greatest = fmaxf(greatest, __shfl_xor_sync(EVERY_LANE, greatest, half));
            }
            float* own = weights + j * PAGE;
            own[2 * lane] = low ? exp_f32(scores[j][0] - greatest) : 0.0f;
            own[2 * lane + 1] = high ? exp_f32(scores[j][1] - greatest) : 0.0f;
            // Weights cross lanes.
            __syncwarp();
            float of_lane = 0.0f;
            if (lane < 16) {
                of_lane = of_lane + own[lane];
                of_lane = of_lane + own[lane + 16];
                of_lane = of_lane + own[lane + 32];
                of_lane = of_lane + own[lane + 48];
            }
            chunk_sum[j] = __shfl_sync(EVERY_LANE, tree_lanes(of_lane, 16), 0);
            chunk_most[j] = greatest;
            if (!SPLIT) {
                if (begun >> j & 1u) {
                    float greater = fmaxf(most[j], greatest);
                    old_factor[j] = exp_f32(most[j] - greater);
                    new_factor[j] = exp_f32(greatest - greater);
                    most[j] = greater;
                    sum[j] = __fmaf_rn(chunk_sum[j], new_factor[j], sum[j] * old_factor[j]);
                } else {
                    most[j] = greatest;
                    sum[j] = chunk_sum[j];
                }
            }
        }

        copies_wait<0>();
        // The values are there for everybody, and the keys are read.
        __syncthreads();
        fetch(keys, chunk + step, 0);
        copies_commit();
        float acc[QUERIES][DIMS];
#pragma unroll
        for (int i = 0; i < QUERIES * DIMS; i++) {
            acc[i / DIMS][i % DIMS] = 0.0f;
        }
        if (own_dim < head_dim) {
            for (int p = 0; p < PAGE; p++) {
                float v[DIMS];
                load_f16<DIMS>(values + p * head_dim + own_dim, v);
#pragma unroll
                for (int j = 0; j < QUERIES; j++) {
                    int position = chunk * PAGE + p;
                    // What stands in a page beyond a row's reach is not read into its sum: it may be anything.
                    if (position >= firsts[j] && position < ends[j]) {
                        float weight = weights[j * PAGE + p];
#pragma unroll
                        for (int i = 0; i < DIMS; i++) {
                            acc[j][i] = __fmaf_rn(weight, v[i], acc[j][i]);
                        }
                    }
                }
            }
        }
#pragma unroll
        for (int j = 0; j < QUERIES; j++) {
            if (!(reached >> j & 1u)) {
                continue;
            }
            if (SPLIT) {
                u64 place = (static_cast<u64>(tile) * all.heads + heads[j]) * all.chunks_max + chunk;
                float* partial = all.partials + place * (head_dim + 2);
                if (own_dim < head_dim) {
#pragma unroll
                    for (int i = 0; i < DIMS; i++) {
                        partial[own_dim + i] = acc[j][i];
                    }
                }
                if (lane == 0) {
                    partial[head_dim] = chunk_most[j];
                    partial[head_dim + 1] = chunk_sum[j];
                }
            } else {
#pragma unroll
                for (int i = 0; i < DIMS; i++) {
                    value[j][i] = begun >> j & 1u ? __fmaf_rn(acc[j][i], new_factor[j], value[j][i] * old_factor[j]) : acc[j][i];
                }
                begun |= 1u << j;
            }
        }
        // The values are read before the next ones come.
        __syncthreads();
    }
    copies_wait<0>();
    if (SPLIT) {
        return;
    }
#pragma unroll
    for (int j = 0; j < QUERIES; j++) {
        float inverse = __fdiv_rn(1.0f, sum[j]);
        u32 greatest = 0;
#pragma unroll
        for (int i = 0; i < DIMS; i++) {
            value[j][i] = value[j][i] * inverse;
            greatest = max(greatest, magnitude_bits(value[j][i]));
        }
        // A block of 32 dimensions is on 32 / DIMS lanes.
        greatest = most_lanes(greatest, WARP / DIMS);
        if (ends[j] == 0 || own_dim >= head_dim) {
            continue;
        }
        int blocks = all.heads * head_dim / BLOCK, block = (heads[j] * head_dim + own_dim) / BLOCK;
        u64 at = activation_block(rows[j], block, blocks);
        float scale;
#pragma unroll
        for (int i = 0; i < DIMS; i++) {
            all.values[at * BLOCK + own_dim % BLOCK + i] = static_cast<signed char>(quantized(value[j][i], greatest, scale));
            if (all.out) {
                all.out[(static_cast<u64>(rows[j]) * all.heads + heads[j]) * head_dim + own_dim + i] = value[j][i];
            }
        }
        if (own_dim % BLOCK == 0) {
            all.scales[at] = scale;
        }
    }
}

#define ATTENTION(name, queries, dims, split)                                                                                      \
    extern "C" __global__ void __launch_bounds__(128) name(Attention all, Cache cache, Placement placement) {                      \
        attend<queries, dims, split>(all, cache, placement);                                                                       \
    }

ATTENTION(attention_split_1_64, 1, 2, true)
ATTENTION(attention_split_1_128, 1, 4, true)
ATTENTION(attention_split_1_256, 1, 8, true)
ATTENTION(attention_split_2_64, 2, 2, true)
ATTENTION(attention_split_2_128, 2, 4, true)
ATTENTION(attention_split_2_256, 2, 8, true)
ATTENTION(attention_whole_1_64, 1, 2, false)
ATTENTION(attention_whole_1_128, 1, 4, false)
ATTENTION(attention_whole_1_256, 1, 8, false)
ATTENTION(attention_whole_2_64, 2, 2, false)
ATTENTION(attention_whole_2_128, 2, 4, false)
ATTENTION(attention_whole_2_256, 2, 8, false)
ATTENTION(attention_whole_4_64, 4, 2, false)
ATTENTION(attention_whole_4_128, 4, 4, false)
ATTENTION(attention_whole_4_256, 4, 8, false)
