//! Shapes of launches: pure arithmetic, the same for every device.

use crate::backend::{AttentionShape, PAGE_TOKENS, Placement};
use crate::model::panels::PANEL_ROWS;

/// Rows that a product's CTA has in the kernel for many rows; tensors have room for whole ones.
pub const ROWS_ALIGNED: usize = 128;
/// Rows up to which the weights are streamed by the skinny kernel.
const SKINNY_ROWS_MAX: usize = 64;
/// Rows of a step that is replayed from a recording, rounded up.
const BUCKETS: [usize; 11] = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128];
/// Warps of an attention CTA.
const ATTENTION_WARPS: usize = 4;
/// CTAs a multiprocessor that attention is split into when rows are few.
const SPLIT_PER_MULTIPROCESSOR: usize = 4;
/// Partial results of split attention take no more than this.
const PARTIAL_BYTES_MAX: usize = 512 << 20;

/// The least bucket that holds so many decoding rows; `None` when they are too many.
pub fn bucket(rows: usize) -> Option<usize> {
    BUCKETS.into_iter().find(|bucket| *bucket >= rows)
}

/// Chunks, rounded up so that a recording serves while contexts grow.
pub fn chunk_class(chunks: usize) -> usize {
    chunks.next_power_of_two()
}

/// What a product does with its sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    Store,
    Add,
    Gate,
}

impl Epilogue {
    fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Add => "add",
            Self::Gate => "gate",
        }
    }
}

/// How a product of so many rows is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProductPlan {
    pub source: &'static str,
    pub kernel: String,
    /// CTAs along the rows.
    pub row_groups: usize,
    /// Panels of one matrix that a CTA has.
    pub panels: usize,
    pub threads: usize,
    pub shared_bytes: usize,
    /// A gated product leaves int8 and no f32.
    pub quantizes: bool,
}

/// As `matmul_skinny.cu` and `matmul_prefill.cu` say in their heads.
pub fn product(rows: usize, epilogue: Epilogue) -> ProductPlan {
    let gate = epilogue == Epilogue::Gate;
    if rows > SKINNY_ROWS_MAX {
        return ProductPlan {
            source: "matmul_prefill",
            kernel: format!("matmul_prefill_{}", epilogue.name()),
            row_groups: rows.div_ceil(ROWS_ALIGNED),
            panels: if gate { 4 } else { 8 },
            threads: 512,
            shared_bytes: 4 * (8_192 + 512 + 8_192 + 1_024),
            quantizes: false,
        };
    }
    let tile_rows = if rows <= 8 {
        8
    } else if rows <= 16 {
        16
    } else {
        32
    };
    // Panels of a CTA, both matrices of a gate together, and stages of its ring.
    let (panels, stages) = match (gate, tile_rows) {
        (false, 8) => (1, 4),
        (false, 16) => (2, 4),
        (false, _) | (true, 32) => (2, 3),
        (true, 8) => (4, 4),
        (true, _) => (4, 3),
    };
    let (warps, stage_bytes) = (8, 4 * (512 + 32));
    let partial_bytes = warps * tile_rows * (panels * PANEL_ROWS + 4) * size_of::<f32>();
    ProductPlan {
        source: "matmul_skinny",
        kernel: format!("matmul_skinny_{}_{tile_rows}", epilogue.name()),
        row_groups: rows.div_ceil(tile_rows),
        panels: if gate { panels / 2 } else { panels },
        threads: 256,
        shared_bytes: warps * stages * stage_bytes + partial_bytes,
        quantizes: gate && panels == 4,
    }
}

/// Groups of panels that a matrix of so many outputs takes.
pub fn groups(outputs: usize, panels: usize) -> usize {
    outputs.div_ceil(PANEL_ROWS).div_ceil(panels)
}

/// Rows of one sequence whose keys are read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    pub first_row: usize,
    pub rows: usize,
}

/// A step's rows as tiles: those that stand alone, and those of prompts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tiles {
    pub single: Vec<Tile>,
    pub many: Vec<Tile>,
}

/// Queries of a prompt's CTA for each warp, so many times 4 altogether.
const PROMPT_QUERIES: usize = 4;

/// Cuts runs of rows of one sequence into tiles; `group` heads share a key.
pub fn tiles(placement: &Placement<'_>, group: usize) -> Tiles {
    let most = (ATTENTION_WARPS * PROMPT_QUERIES / group).max(1);
    let mut out = Tiles::default();
    let mut first_row = 0;
    for run in placement.rows.chunk_by(|a, b| a.sequence == b.sequence && a.position + 1 == b.position) {
        if run.len() == 1 {
            out.single.push(Tile { first_row, rows: 1 });
        } else {
            let cuts = (0..run.len()).step_by(most);
            out.many.extend(cuts.map(|at| Tile { first_row: first_row + at, rows: most.min(run.len() - at) }));
        }
        first_row += run.len();
    }
    out
}

/// How attention is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionPlan {
    pub kernel: String,
    /// Key/value heads, times slices of their query heads.
    pub heads: usize,
    pub shared_bytes: usize,
    /// CTAs that share one tile's chunks; `None` when each CTA has all of them.
    pub slots: Option<usize>,
    /// Chunks that there is room for in a head's partial results.
    pub chunks_max: usize,
    pub partial_bytes: usize,
}

/// Attention of `tiles` tiles over at most `chunks` chunks.
pub fn attention(shape: AttentionShape, tiles: usize, chunks: usize, single: bool, multiprocessors: usize) -> AttentionPlan {
    let group = shape.heads / shape.kv_heads;
    let queries = match (single, group) {
        (true, ..=4) => 1,
        (true, _) => 2,
        (false, _) => PROMPT_QUERIES,
    };
    let slices = group.div_ceil(group.min(ATTENTION_WARPS * queries));
    let heads = shape.kv_heads * slices;
    let head_dim = shape.head_dim;
    let width = if head_dim <= 64 {
        64
    } else if head_dim <= 128 {
        128
    } else {
        256
    };
    let shared_bytes = 4 * PAGE_TOKENS * head_dim + ATTENTION_WARPS * queries * (head_dim + PAGE_TOKENS) * size_of::<f32>();

    let chunks_max = chunk_class(chunks);
    let partial_bytes = tiles * shape.heads * chunks_max * (head_dim + 2) * size_of::<f32>();
    let wanted = SPLIT_PER_MULTIPROCESSOR * multiprocessors;
    let slots = (wanted / (tiles * heads).max(1)).min(chunks_max);
    let split = single && slots > 1 && partial_bytes <= PARTIAL_BYTES_MAX;
    AttentionPlan {
        kernel: format!("attention_{}_{queries}_{width}", if split { "split" } else { "whole" }),
        heads,
        shared_bytes,
        slots: split.then_some(slots),
        chunks_max,
        partial_bytes: if split { partial_bytes } else { 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Row;
    use proptest::prelude::*;

    /// Least shared memory of a block on the cards that we compile for: compute capability 8.6, 8.9 and 12.0.
    const SHARED_BYTES_MAX: usize = 99 << 10;

    #[test]
    fn every_plan_fits_every_card() {
        for epilogue in [Epilogue::Store, Epilogue::Add, Epilogue::Gate] {
            for rows in 1..=300 {
                let plan = product(rows, epilogue);
                assert!(plan.shared_bytes <= SHARED_BYTES_MAX, "{plan:?}");
                let tile: usize = plan.kernel.rsplit('_').next().and_then(|n| n.parse().ok()).unwrap_or(ROWS_ALIGNED);
                assert!(plan.row_groups * tile >= rows && (plan.row_groups - 1) * tile < rows, "{rows}: {plan:?}");
            }
        }
        for head_dim in (32..=256).step_by(32) {
            for (heads, kv_heads) in [(1, 1), (8, 2), (9, 3), (14, 2), (32, 1), (71, 1)] {
                let shape = AttentionShape { heads, kv_heads, head_dim, window: None };
                for (tiles, single) in [(1, true), (200, true), (5, false)] {
                    let plan = attention(shape, tiles, 600, single, 132);
                    assert!(plan.shared_bytes <= SHARED_BYTES_MAX, "{plan:?}");
                    assert!(plan.partial_bytes <= PARTIAL_BYTES_MAX);
                }
            }
        }
    }

    #[test]
    fn few_rows_split_their_contexts_and_many_do_not() {
        let shape = AttentionShape { heads: 32, kv_heads: 8, head_dim: 128, window: None };
        let one = attention(shape, 1, 32, true, 132);
        assert_eq!((one.kernel.as_str(), one.slots), ("attention_split_1_128", Some(32)));
        let many = attention(shape, 128, 32, true, 132);
        assert_eq!((many.kernel.as_str(), many.slots, many.partial_bytes), ("attention_whole_1_128", None, 0));
        let prompt = attention(shape, 1, 32, false, 132);
        assert_eq!((prompt.kernel.as_str(), prompt.slots), ("attention_whole_4_128", None));
    }

    #[test]
    fn buckets_hold_their_rows() {
        assert_eq!([1, 3, 9, 17, 128, 129].map(bucket), [Some(1), Some(4), Some(16), Some(24), Some(128), None]);
    }

    proptest! {
        #[test]
        fn tiles_hold_every_row_once_and_never_two_sequences(lengths in prop::collection::vec(1usize..40, 1..8), group in 1usize..20) {
            let rows: Vec<Row> =
                lengths.iter().enumerate().flat_map(|(sequence, length)| (0..*length).map(move |i| Row { sequence, position: 7 + i })).collect();
            let placement = Placement { rows: &rows, tables: &[] };
            let tiles = tiles(&placement, group);
            let mut all: Vec<Tile> = tiles.single.iter().chain(&tiles.many).copied().collect();
            all.sort_by_key(|tile| tile.first_row);
            let mut next = 0;
            for tile in all {
                prop_assert_eq!(tile.first_row, next);
                prop_assert!(tile.rows >= 1 && tile.rows <= (16 / group).max(1));
                prop_assert_eq!(rows[next].sequence, rows[next + tile.rows - 1].sequence);
                next += tile.rows;
            }
            prop_assert_eq!(next, rows.len());
        }
    }
}
