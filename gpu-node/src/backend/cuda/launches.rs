//! One typed launcher a kernel: shapes in, parameters in the kernel's order out. Grids are as the kernels' heads say.

use super::device::{Argument, Device, Fault, Launch, low, pair};
use super::plan::{AttentionPlan, ProductPlan, groups};
use crate::model::panels::{BLOCK, BLOCK_BYTES};

/// `first` of a matrix that is not there: beyond every group.
const NO_GROUP: usize = i32::MAX as usize;
/// Matrices that one launch multiplies with the same input.
pub(super) const MATRICES_MAX: usize = 3;

/// A row count in the card's memory, and the rows that a grid has room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub(super) count: u64,
    pub(super) grid: usize,
}

/// Addresses of quantised rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quantized {
    pub(super) values: u64,
    pub(super) scales: u64,
}

/// Addresses of one product's operands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    pub(super) weights: Quantized,
    pub(super) out: u64,
    pub(super) outputs: usize,
}

/// Addresses and constants of `Heads`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) qkv: [u64; 3],
    pub(super) biases: [u64; 3],
    pub(super) gains: [u64; 2],
    pub(super) angles: [u64; 2],
    pub(super) heads: usize,
    pub(super) eps: f32,
}

/// Of `Cache`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cache {
    pub(super) pages: u64,
    pub(super) page_elements: usize,
    pub(super) layer: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

/// Of `Placement`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) positions: u64,
    pub(super) starts: u64,
    pub(super) tables: u64,
}

/// Of `Attention`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attention {
    pub(super) q: u64,
    pub(super) tiles: u64,
    pub(super) tile_count: usize,
    pub(super) out: u64,
    pub(super) quantized: Quantized,
    pub(super) partials: u64,
    pub(super) heads: usize,
    pub(super) window: Option<usize>,
}

impl Cache {
    fn argument(self) -> Argument {
        Argument(vec![self.pages, self.page_elements as u64, pair(self.layer, self.kv_heads), low(self.head_dim)])
    }
}

impl Places {
    fn argument(self) -> Argument {
        Argument(vec![self.positions, self.starts, self.tables])
    }
}

fn launch(source: &'static str, kernel: &str, grid: [usize; 3], threads: usize, arguments: Vec<Argument>) -> Launch {
    Launch { source, kernel: kernel.to_owned(), grid, threads, shared_bytes: 0, arguments }
}

pub(super) fn repack(values: u64, bytes: usize) -> Launch {
    let tiles = bytes / BLOCK_BYTES;
    launch("repack", "repack_s8", [tiles.div_ceil(8), 1, 1], 256, vec![Argument::word(values), Argument::word(tiles as u64)])
}

pub(super) fn embed(table: Quantized, tokens: u64, rows: Rows, width: usize, out: u64) -> Launch {
    let blocks = width / BLOCK;
    let arguments = vec![
        Argument::word(table.values),
        Argument::word(table.scales),
        Argument::word(tokens),
        Argument::word(rows.count),
        Argument::int(blocks),
        Argument::word(out),
    ];
    launch("embed", "embed_f32", [rows.grid, blocks.div_ceil(8), 1], 256, arguments)
}

pub(super) fn norm(x: u64, gain: u64, rows: Rows, width: usize, eps: f32, out: u64, quantized: Quantized) -> Launch {
    let arguments = vec![
        Argument::word(x),
        Argument::word(gain),
        Argument::word(rows.count),
        Argument::int(width),
        Argument::float(eps),
        Argument::word(out),
        Argument::word(quantized.values),
        Argument::word(quantized.scales),
    ];
    launch("norm", "norm_quantize_f32", [rows.grid, 1, 1], 128, arguments)
}

pub(super) fn quantize(x: u64, rows: Rows, width: usize, out: Quantized) -> Launch {
    let blocks = width / BLOCK;
    let words = [Argument::word(x), Argument::word(rows.count), Argument::int(blocks)];
    let arguments = words.into_iter().chain([Argument::word(out.values), Argument::word(out.scales)]).collect();
    launch("quantize", "quantize_f32", [rows.grid, blocks.div_ceil(8), 1], 256, arguments)
}

pub(super) fn gather(x: u64, picked: u64, rows: Rows, width: usize, out: u64, quantized: Quantized) -> Launch {
    let blocks = width / BLOCK;
    let arguments = vec![
        Argument::word(x),
        Argument::word(picked),
        Argument::word(rows.count),
        Argument::int(blocks),
        Argument::word(out),
        Argument::word(quantized.values),
        Argument::word(quantized.scales),
    ];
    launch("quantize", "gather_quantize_f32", [rows.grid, blocks.div_ceil(8), 1], 256, arguments)
}

/// Products of at most three matrices; with a gate of the first two, whose result is `gated` when the plan quantises.
pub(super) fn product(plan: &ProductPlan, gate: bool, of: &[Operand], x: Quantized, rows: Rows, width: usize, gated: Quantized) -> Launch {
    let mut words = Vec::with_capacity(4 * MATRICES_MAX);
    let mut first = 0;
    for index in 0..MATRICES_MAX {
        match of.get(index) {
            Some(of) => {
                // With a gate the second matrix has the groups of the first.
                let begins = if gate && index == 1 { NO_GROUP } else { first };
                words.extend([of.weights.values, of.weights.scales, of.out, pair(of.outputs, begins)]);
                if !gate || index == 0 {
                    first += groups(of.outputs, plan.panels);
                }
            }
            None => words.extend([0, 0, 0, pair(0, NO_GROUP)]),
        }
    }
    let mut arguments =
        vec![Argument(words), Argument::word(x.values), Argument::word(x.scales), Argument::word(rows.count), Argument::int(width / BLOCK)];
    if plan.source == "matmul_skinny" {
        arguments.extend([Argument::word(gated.values), Argument::word(gated.scales)]);
    }
    let grid = [plan.row_groups, first, 1];
    Launch { source: plan.source, kernel: plan.kernel.clone(), grid, threads: plan.threads, shared_bytes: plan.shared_bytes, arguments }
}

pub(super) fn rope(heads: Heads, cache: Cache, places: Places, rows: Rows) -> Launch {
    let Heads { qkv, biases, gains, angles, .. } = heads;
    let mut words = [&qkv[..], &biases, &gains, &angles].concat();
    words.push(low(heads.heads) | u64::from(heads.eps.to_bits()) << 32);
    let arguments = vec![Argument(words), cache.argument(), places.argument(), Argument::word(rows.count)];
    let warps = heads.heads + 2 * cache.kv_heads;
    launch("rope", "rope_append_f32", [rows.grid, warps.div_ceil(4), 1], 128, arguments)
}

/// Attention of all tiles, and where it is split the merging of its parts.
pub(super) fn attention(plan: &AttentionPlan, all: Attention, cache: Cache, places: Places) -> Vec<Launch> {
    let words = vec![
        all.q,
        all.tiles,
        low(all.tile_count),
        all.out,
        all.quantized.values,
        all.quantized.scales,
        all.partials,
        pair(all.heads, all.window.unwrap_or(0)),
        low(plan.chunks_max),
    ];
    let arguments = vec![Argument(words), cache.argument(), places.argument()];
    let grid = match plan.slots {
        Some(slots) => [slots, plan.heads, all.tile_count],
        None => [all.tile_count, plan.heads, 1],
    };
    let mut launches = vec![Launch { shared_bytes: plan.shared_bytes, ..launch("attention", &plan.kernel, grid, 128, arguments.clone()) }];
    if plan.slots.is_some() {
        launches.push(launch("attention_merge", "attention_merge_f32", [all.tile_count, all.heads.div_ceil(4), 1], 128, arguments));
    }
    launches
}

pub(super) fn digest(x: u64, rows: Rows, width: usize, out: u64, finite: u64) -> Launch {
    let words = [Argument::word(x), Argument::word(rows.count), Argument::int(width)];
    let arguments = words.into_iter().chain([Argument::word(out), Argument::word(finite)]).collect();
    launch("digest", "digest_keccak256", [rows.grid, 1, 1], 32, arguments)
}

pub(super) fn sample(logits: u64, rows: usize, vocabulary: usize, draws: u64, changes: u64, out: u64) -> Launch {
    let words = [Argument::word(logits), Argument::word(draws), Argument::word(changes), Argument::int(vocabulary)];
    let arguments = words.into_iter().chain([Argument::word(out)]).collect();
    launch("sample", "sample_f32", [rows, 1, 1], 1024, arguments)
}

pub(super) fn copy(from: u64, to: u64, bytes: usize, multiprocessors: usize) -> Launch {
    let arguments = vec![Argument::word(from), Argument::word(to), Argument::word((bytes / 16) as u64)];
    launch("copy", "copy_bytes", [multiprocessors * 8, 1, 1], 256, arguments)
}

/// Starts what the functions above made.
pub(super) fn start<D: Device>(device: &D, launch: &Launch) -> Result<(), Fault> {
    if launch.grid.contains(&0) {
        return Ok(());
    }
    // SAFETY: the functions above give each kernel parameters of its types, in its order; addresses are those of memory that the
    // back end made as large as the kernels' heads say, and holds while the launch is under way.
    #[allow(unsafe_code)]
    unsafe {
        device.launch(launch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::AttentionShape;
    use crate::backend::cuda::plan::{self, Epilogue};
    use proptest::prelude::*;

    /// Of every card from compute capability 8.0 on.
    const GRID_MAX: [usize; 3] = [(1 << 31) - 1, 65_535, 65_535];
    const THREADS_MAX: usize = 1_024;
    /// Least shared memory of a block on the cards that we compile for.
    const SHARED_BYTES_MAX: usize = 99 << 10;

    fn check(launch: &Launch) {
        for (blocks, most) in launch.grid.iter().zip(GRID_MAX) {
            assert!(*blocks <= most, "{launch:?}");
        }
        assert!(launch.threads <= THREADS_MAX && launch.threads.is_multiple_of(32), "{launch:?}");
        assert!(launch.shared_bytes <= SHARED_BYTES_MAX, "{launch:?}");
    }

    proptest! {
        #[test]
        fn every_launch_fits_every_card_and_covers_its_shape(
            rows in 1usize..5_000, blocks in 1usize..1_024, outputs in 1usize..300_000, heads_of_kv in 1usize..20, kv_heads in 1usize..33,
            head_blocks in 1usize..9, contexts in 1usize..4_096, multiprocessors in 1usize..200,
        ) {
            let (width, grid) = (blocks * BLOCK, Rows { count: 0, grid: rows });
            let none = Quantized { values: 0, scales: 0 };
            for launch in [embed(none, 0, grid, width, 0), quantize(0, grid, width, none), gather(0, 0, grid, width, 0, none)] {
                check(&launch);
                prop_assert!(launch.grid[0] == rows && launch.grid[1] * 8 >= blocks && (launch.grid[1] - 1) * 8 < blocks);
            }
            let all = [norm(0, 0, grid, width, 1e-5, 0, none), digest(0, grid, width, 0, 0), sample(0, rows, outputs, 0, 0, 0)];
            for launch in all {
                check(&launch);
                prop_assert_eq!(launch.grid, [rows, 1, 1]);
            }
            let packed = repack(0, outputs.div_ceil(16) * blocks * BLOCK_BYTES);
            check(&packed);
            prop_assert!(packed.grid[0] * 8 >= outputs.div_ceil(16) * blocks);
            check(&copy(0, 0, 1 << 30, multiprocessors));

            let of = Operand { weights: none, out: 0, outputs };
            for epilogue in [Epilogue::Store, Epilogue::Add, Epilogue::Gate] {
                let plan = plan::product(rows, epilogue);
                let (gate, matrices) = if epilogue == Epilogue::Gate { (true, 2) } else { (false, MATRICES_MAX) };
                let launch = product(&plan, gate, &vec![of; matrices], none, grid, width, none);
                check(&launch);
                let counted = if gate { 1 } else { matrices };
                prop_assert_eq!(launch.grid[1], counted * groups(outputs, plan.panels));
                prop_assert!(groups(outputs, plan.panels) * plan.panels * 16 >= outputs);
            }

            let (heads, head_dim) = (heads_of_kv * kv_heads, head_blocks * 32);
            let cache = Cache { pages: 0, page_elements: 0, layer: 0, kv_heads, head_dim };
            let places = Places { positions: 0, starts: 0, tables: 0 };
            let turned = rope(Heads { qkv: [0; 3], biases: [0; 3], gains: [0; 2], angles: [0; 2], heads, eps: 1e-5 }, cache, places, grid);
            check(&turned);
            prop_assert!(turned.grid[1] * 4 >= heads + 2 * kv_heads);
            for single in [true, false] {
                let shape = AttentionShape { heads, kv_heads, head_dim, window: None };
                let plan = plan::attention(shape, rows, contexts, single, multiprocessors);
                let all =
                    Attention { q: 0, tiles: 0, tile_count: rows, out: 0, quantized: none, partials: 0, heads, window: None };
                let launches = attention(&plan, all, cache, places);
                launches.iter().for_each(check);
                prop_assert_eq!(launches.len(), if plan.slots.is_some() { 2 } else { 1 });
                prop_assert!(launches.iter().all(|launch| launch.grid.contains(&rows)));
            }
        }
    }
}
