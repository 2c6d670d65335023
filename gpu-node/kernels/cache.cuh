// Where keys and values lie, and what a step's rows are.
#pragma once
#include "numerics.cuh"

// Pages of all layers and key/value heads, f16: `[page][layer][kv_head]`, keys `[head_dim][64]`, then values `[64][head_dim]`.
struct Cache {
    u16* pages;
    u64 page_elements; // layers · kv_heads · 2 · 64 · head_dim
    int layer;
    int kv_heads;
    int head_dim; // a multiple of 32, at most 256
};

// Of each row: its place in its sequence, and where the sequence's page numbers begin in `tables`. A page number a 64 positions.
struct Placement {
    const int* positions;
    const int* table_starts;
    const u32* tables;
};

// Keys of one head of a page; its values follow 64 · head_dim elements behind.
DEVICE u16* head_page(const Cache& cache, u32 page, int kv_head) {
    u64 head = static_cast<u64>(cache.layer) * cache.kv_heads + kv_head;
    return cache.pages + page * cache.page_elements + head * (2 * PAGE) * cache.head_dim;
}

// Positions that a row attends to, from `first` to its own.
DEVICE int first_position(int position, int window) { return window > 0 && position + 1 > window ? position + 1 - window : 0; }

// Operands of attention and of its merging.
struct Attention {
    const float* q;
    const int* tiles;
    int tile_count;
    float* out;
    signed char* values;
    float* scales;
    float* partials;
    int heads;
    int window;
    int chunks_max;
};
