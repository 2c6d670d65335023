// The next token of each row, drawn from its logits as docs/numerics.md section 10 says, or the statement that the processor must.
//
//   w(i) = exp((logit(i) − max) / temperature); of the candidates in their order the first whose running sum exceeds u · sum
//
// logits  f32 [rows][vocabulary], left as they were; draws [rows]; changes, each row's `change_count` from `first_change` on, a token once
// out     u32 [rows][2]: token, and a `Found`
// grid    (rows), block 1024. Bytes moved: rows · vocabulary · 4, twice without top-k and top-p, three times with
// order   the contract adds f64 weights one after the other; here they are added in any order, and it is proven that the token is the same
//
// Of n ≤ vocabulary positive numbers any order of f64 additions gives their sum S within γ · S, γ = n · 2⁻⁵³ / (1 − n · 2⁻⁵³). So a running
// sum of the contract and one of ours differ by at most 2γ · S, and so do the numbers that they are compared with, u · S and top_p · S,
// which are rounded once more: less than 4.1 · n · 2⁻⁵³ · S altogether. A comparison whose sides are more than n · 2⁻⁵⁰ · S apart, twice
// as much, has the contract's outcome. Running sums of positive numbers never fall, so one element that passes while the one before it
// does not is the first that passes. Where an element is nearer than that, the row stays OPEN and the processor draws from its logits.
//
// Of a top-k or top-p the likeliest tokens are listed and sorted: all whose key is at least the SURE-th greatest of the greatest keys of
// 2048 parts of the vocabulary, so at least SURE. A top-k is in the list when it is no longer than the list. The end of a nucleus is the
// contract's when its weight is greater than the greatest weight outside the list, which is looked up and not inferred. Everything else is
// OPEN: a larger top-k, a wider nucleus, more than LIST tokens at the bound.
#include "sample.cuh"

// So many of the greatest logits are surely listed.
#define SURE 1024
// What a change does.
#define REPEATED 1u
#define PENALIZED 2u
#define BIASED 4u
// Two running sums of n terms differ by no more than this share of n times the sum: 2⁻⁵⁰.
#define SHARE 8.8817841970012523e-16

enum Found { NOT_FINITE = 0, TOKEN = 1, OPEN = 2 };

struct Draw {
    float temperature; // 0: the greatest logit
    float top_p;       // 1: off
    float min_p;
    float repetition;
    u32 top_k; // 0: off
    u32 first_change;
    u32 change_count;
    u32 is_wanted; // 0: the row stays open
    double uniform;
};

struct Change {
    u32 token;
    u32 kinds;
    float minus; // the logit itself, while it is changed
    float bias;
};

DEVICE float clamped(float logit) {
    const float greatest = __int_as_float(INFINITY_BITS - 1);
    return logit > greatest ? greatest : logit < -greatest ? -greatest : logit;
}

// Penalties and bias. Whether the logits were finite that are changed here.
DEVICE bool change(float* logits, Change* changes, const Draw& draw, int vocabulary) {
    bool good = true;
    for (u32 i = threadIdx.x; i < draw.change_count; i += THREADS) {
        Change& own = changes[draw.first_change + i];
        if (own.token >= static_cast<u32>(vocabulary)) {
            continue;
        }
        float was = logits[own.token], logit = was;
        good = good && magnitude_bits(was) < INFINITY_BITS;
        if (own.kinds & REPEATED) {
            logit = clamped(logit > 0.0f ? __fdiv_rn(logit, draw.repetition) : logit * draw.repetition);
        }
        if (own.kinds & PENALIZED) {
            logit = clamped(logit - own.minus);
        }
        if (own.kinds & BIASED) {
            logit = clamped(logit + own.bias);
        }
        logits[own.token] = logit;
        own.minus = was;
    }
    return good;
}

DEVICE void change_back(float* logits, const Change* changes, const Draw& draw, int vocabulary) {
    for (u32 i = threadIdx.x; i < draw.change_count; i += THREADS) {
        const Change& own = changes[draw.first_change + i];
        if (own.token < static_cast<u32>(vocabulary)) {
            logits[own.token] = own.minus;
        }
    }
}

// Candidates in ascending order of id. First the warp's share of the vocabulary in which the sum passes, then the token in it.
template <class Weight> DEVICE int draw_by_id(Weight weight, const Draw& draw, int vocabulary, Room& room) {
    int part = (vocabulary + WARP - 1) / WARP, begin = static_cast<int>(threadIdx.x / WARP) * part, end = min(begin + part, vocabulary);
    auto value = [&](int id) {
        float w = weight(id);
        return w >= draw.min_p ? static_cast<double>(w) : 0.0;
    };
    double own = 0.0;
    for (int id = begin + static_cast<int>(threadIdx.x % WARP); id < end; id += WARP) {
        own += value(id);
    }
    double total = sum_of(own, room), target = draw.uniform * total;
    int warp = 0;
    for (int other = 1; other < WARP; other++) {
        warp = room.sums[other] <= target ? other : warp;
    }
    begin = min(warp * part, vocabulary);
    return passing(value, begin, min(begin + part, vocabulary), room.sums[warp], target, vocabulary * SHARE * total, room);
}

// Candidates of a top-k, a nucleus, or both. `most` are this thread's greatest keys of its two parts of the vocabulary.
template <class Weight>
DEVICE int draw_listed(Weight weight, const float* logits, const u64* most, const Draw& draw, int vocabulary, Room& room) {
    int thread = threadIdx.x;
    bool cuts = draw.top_k > 0 && draw.top_k < static_cast<u32>(vocabulary);
    u64* list = room.list;
    u64 least = 0;
    if (vocabulary > LIST) {
        list[thread] = most[0], list[THREADS + thread] = most[1];
        sort(list);
        least = list[SURE - 1];
    }
    int listed = 0;
    double sum = 0.0;
    u32 outside = 0;
    for (int id = thread; id < vocabulary; id += THREADS) {
        bool lists = key_of(ordered(logits[id]), id) >= least;
        listed += lists;
        if (!cuts) {
            float w = weight(id);
            sum += w;
            outside = lists ? outside : max(outside, static_cast<u32>(__float_as_int(w)));
        }
    }
    outside = most_lanes(outside, WARP);
    if (thread % WARP == 0) {
        room.most[thread / WARP] = outside;
    }
    // Counts below 2⁵³ are exact. The barriers in there make `most` everybody's, and the bound has been read.
    int at = static_cast<int>(before_thread(listed, room.sums)), members = static_cast<int>(room.sums[WARP]);
    outside = most_lanes(room.most[thread % WARP], WARP);
    if (members > LIST || (cuts && draw.top_k > static_cast<u32>(members))) {
        return -1;
    }
    for (int i = thread; i < LIST; i += THREADS) {
        list[i] = 0;
    }
    // Empty before anybody fills it.
    __syncthreads();
    for (int id = thread; id < vocabulary; id += THREADS) {
        u64 key = key_of(ordered(logits[id]), id);
        if (key >= least) {
            list[at++] = key;
        }
    }
    sort(list);

    members = cuts ? static_cast<int>(draw.top_k) : members;
    // From here on the ranks are those of weights, in the order of the logits.
    for (int i = thread; i < LIST; i += THREADS) {
        u32 id = token_of(list[i]);
        list[i] = i < members ? key_of(static_cast<u32>(__float_as_int(weight(id))), id) : 0;
    }
    auto weight_at = [&](int i) { return __int_as_float(static_cast<int>(rank_of(list[i]))); };
    if (draw.top_p < 1.0f) {
        sort(list);
        double total = sum_of(cuts ? static_cast<double>(weight_at(thread)) + weight_at(THREADS + thread) : sum, room);
        auto value = [&](int i) { return static_cast<double>(weight_at(i)); };
        int last = passing(value, 0, members, 0.0, static_cast<double>(draw.top_p) * total, vocabulary * SHARE * total, room);
        if (last < 0 || (!cuts && rank_of(list[last]) <= outside)) {
            return -1;
        }
        members = last + 1;
    }
    // The weights of all are in place.
    __syncthreads();
    auto value = [&](int i) {
        float w = weight_at(i);
        return i < members && w >= draw.min_p ? static_cast<double>(w) : 0.0;
    };
    double total = sum_of(value(thread) + value(THREADS + thread), room);
    int drawn = passing(value, 0, members, 0.0, draw.uniform * total, vocabulary * SHARE * total, room);
    return drawn < 0 ? -1 : static_cast<int>(token_of(list[drawn]));
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) sample_f32(
    float* logits, const Draw* __restrict__ draws, Change* changes, int vocabulary, u32* __restrict__ out) {
    int row = blockIdx.x, thread = threadIdx.x;
    const Draw draw = draws[row];
    float* own = logits + static_cast<u64>(row) * vocabulary;
    __shared__ Room room;
    bool good = !draw.is_wanted || change(own, changes, draw, vocabulary);
    // Everybody sees the changed logits.
    __syncthreads();
    // −0 and +0 are equal when the greatest is looked for, and only then.
    u64 best = 0, most[2] = {0, 0};
    for (int first = thread; draw.is_wanted && first < vocabulary; first += 2 * THREADS) {
#pragma unroll
        for (int part = 0; part < 2; part++) {
            int id = first + part * THREADS;
            if (id < vocabulary) {
                float logit = own[id];
                good = good && magnitude_bits(logit) < INFINITY_BITS;
                u64 key = key_of(ordered(logit), id), level = key_of(ordered(logit == 0.0f ? 0.0f : logit), id);
                most[part] = max(most[part], key);
                best = max(best, level);
            }
        }
    }
    best = greatest_lane(best);
    good = __all_sync(EVERY_LANE, good);
    if (thread % WARP == 0) {
        room.best[thread / WARP] = best, room.good[thread / WARP] = good;
    }
    // Every warp's greatest is there.
    __syncthreads();
    best = greatest_lane(room.best[thread % WARP]);
    good = __all_sync(EVERY_LANE, room.good[thread % WARP]);

    int token = static_cast<int>(token_of(best));
    if (!draw.is_wanted || !good) {
        token = -1;
    } else if (draw.temperature != 0.0f) {
        float greatest = own[token];
        auto weight = [&](int id) { return exp_f32(__fdiv_rn(own[id] - greatest, draw.temperature)); };
        bool cuts = draw.top_k > 0 && draw.top_k < static_cast<u32>(vocabulary);
        token = cuts || draw.top_p < 1.0f ? draw_listed(weight, own, most, draw, vocabulary, room)
                                          : draw_by_id(weight, draw, vocabulary, room);
    }
    // Nobody reads the changed logits any more.
    __syncthreads();
    if (draw.is_wanted) {
        change_back(own, changes, draw, vocabulary);
    }
    if (thread == 0) {
        out[2 * row] = token < 0 ? 0u : static_cast<u32>(token);
        out[2 * row + 1] = !draw.is_wanted ? OPEN : !good ? NOT_FINITE : token < 0 ? OPEN : TOKEN;
    }
}
