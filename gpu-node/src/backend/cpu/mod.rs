//! The numeric contract `parallelix-x8-1` on the processor's vector units.

mod activations;
mod attention;
mod bandwidth;
mod exps;
mod isa;
mod lanes;
mod math;
mod matmul;
mod pool;
mod rows;
mod share; // processors that other programs want too
mod team;

use std::ops::Range;
use std::sync::Mutex;

use alloy::primitives::B256;

use activations::{ActivationRow, Activations};
use attention::{Query, Reach, Stored};
pub use bandwidth::read_gb_per_s;
pub(crate) use exps::weights;
pub use lanes::Isa;
pub(crate) use math::exp;
use matmul::{Epilogue, Output, Part, TILE_PANELS_MAX};
pub use pool::Pool;
pub use rows::Rope;
use rows::Turn;
pub use share::granted_nice;
pub use team::Team;

use super::{AttentionShape, Backend, BackendError, CacheShape, PAGE_TOKENS, PageId, Placement, Projections, RopeShape, Row};
use crate::model::PanelMatrix;
use crate::model::panels::{BLOCK, PANEL_ROWS};
use crate::proof::position_digest;

/// Name of the arithmetic (`docs/numerics.md`).
pub const NUMERIC_CONTRACT: &str = "parallelix-x8-1";
/// Tasks of a region per thread: more than one, so that a thread that was put aside leaves little behind.
const TASKS_PER_THREAD: usize = 4;
/// The same of attention, where later rows of a prompt are more work.
const ATTENTION_TASKS_PER_THREAD: usize = 16;
/// Rows of a step that are worth a pass of their own over the weights.
const ROWS_OF_BLOCK: usize = 32;
/// From so many rows on, what is done to each row is worth a parallel region.
const PARALLEL_ROWS: usize = 8;

/// Activations in host memory.
pub struct Tensor {
    data: Vec<f32>,
    width: usize,
}

impl Tensor {
    fn rows(&self) -> usize {
        self.data.len() / self.width
    }

    fn set_rows(&mut self, rows: usize) {
        self.data.resize(rows * self.width, 0.0);
    }

    fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.width..(index + 1) * self.width]
    }
}

/// The processor's cores.
pub struct CpuBackend {
    isa: Isa,
    team: Team,
    quantized: Activations,
}

impl CpuBackend {
    /// Uses the best instruction set and `threads` threads.
    pub fn new(threads: usize) -> Self {
        Self::with_isa(threads, Isa::best())
    }

    /// The same for users who wait: its threads ask for this nice value.
    pub fn serving(threads: usize, nice: i32) -> Self {
        Self::with(threads, nice, Isa::best())
    }

    /// Uses `isa`, or the best one when the processor lacks it.
    pub fn with_isa(threads: usize, isa: Isa) -> Self {
        Self::with(threads, 0, if Isa::available().contains(&isa) { isa } else { Isa::best() })
    }

    fn with(threads: usize, nice: i32, isa: Isa) -> Self {
        Self { isa, team: Team::new(threads.max(1), nice), quantized: Activations::default() }
    }

    /// Quantises the rows of `x` for the products that follow.
    fn quantize(&mut self, x: &Tensor) {
        let isa = self.isa;
        let (rows, blocks) = (x.rows(), x.width / BLOCK);
        self.quantized.resize(rows, x.width);
        let Activations { values, scales, corrections, .. } = &mut self.quantized;
        let parts = values.chunks_mut(x.width).zip(scales.chunks_mut(blocks)).zip(corrections.chunks_mut(blocks));
        let work = parts.zip(x.data.chunks(x.width));
        each(&mut self.team, PARALLEL_ROWS, work, &|(((values, scales), corrections), x)| {
            // SAFETY: `isa` was detected.
            #[allow(unsafe_code)]
            unsafe {
                activations::quantize(isa, x, ActivationRow { values, scales, corrections });
            }
        });
    }

    /// Computes several products over the quantised rows in one parallel region.
    fn products(&mut self, jobs: &[(&PanelMatrix, Output<'_>, Epilogue)]) {
        let (isa, x) = (self.isa, &self.quantized);
        let sizes: Vec<usize> = jobs.iter().map(|(matrix, ..)| matrix.rows().div_ceil(PANEL_ROWS)).collect();
        let tasks = split(&sizes, x.rows(), self.team.threads());
        self.team.run(tasks.len(), &|task| {
            let (job, part) = &tasks[task];
            let (matrix, out, epilogue) = &jobs[*job];
            // SAFETY: tasks of one output share no panel of its matrix and token, so they write other elements; `isa` was detected.
            #[allow(unsafe_code)]
            unsafe {
                matmul::matmul(isa, matrix.panels(), x, part.clone(), out, *epilogue);
            }
        });
    }

    /// Biases, norms, rotations; keys and values into the pages.
    fn turn_and_append(
        &mut self,
        layer: usize,
        shape: AttentionShape,
        placement: &Placement<'_>,
        rope: &Rope,
        qkv: &mut Projections<'_, Self>,
        pool: &mut Pool,
    ) {
        let isa = self.isa;
        let Projections { q, k, v, bias, norm, eps } = qkv;
        let (bias, norm, eps) = (*bias, *norm, *eps);
        let writer = pool.writer();
        let parts = q.data.chunks_mut(q.width).zip(k.data.chunks_mut(k.width)).zip(v.data.chunks_mut(v.width));
        let scale = 1.0 / (shape.head_dim as f32).sqrt();
        each(&mut self.team, PARALLEL_ROWS, parts.zip(placement.rows), &|(((q, k), v), row)| {
            let turn = |which: usize, scale: f32| Turn {
                bias: bias.map(|b| b[which].as_slice()),
                norm: norm.map(|n| (n[which].as_slice(), eps)),
                angles: rope.at(row.position),
                scale,
            };
            let page = placement.tables[row.sequence][row.position / PAGE_TOKENS];
            // SAFETY: `isa` was detected. Each row is another position of its sequence, and nobody attends before all are written.
            #[allow(unsafe_code)]
            unsafe {
                rows::turn(isa, q, turn(0, scale));
                rows::turn(isa, k, turn(1, 1.0));
                if let Some(bias) = bias {
                    rows::add_bias(isa, v, bias[2]);
                }
                writer.append(isa, layer, page, row.position % PAGE_TOKENS, k, v);
            }
        });
    }
}

/// Does `work` with every item, side by side when there are at least `parallel_from`.
fn each<T: Send>(team: &mut Team, parallel_from: usize, items: impl ExactSizeIterator<Item = T>, work: &(dyn Fn(T) + Sync)) {
    if items.len() < parallel_from {
        items.for_each(work);
        return;
    }
    let all: Vec<Mutex<Option<T>>> = items.map(|item| Mutex::new(Some(item))).collect();
    let per_task = all.len().div_ceil(team.threads() * TASKS_PER_THREAD);
    team.run(all.len().div_ceil(per_task), &|task| {
        for item in &all[task * per_task..all.len().min((task + 1) * per_task)] {
            // Each item is taken by one task, so the lock is never waited for.
            if let Some(item) = item.lock().ok().and_then(|mut item| item.take()) {
                work(item);
            }
        }
    });
}

/// Products as tasks, about equal, of whole tiles where there are any. Many rows are cut among the threads: then each reads all weights,
/// and what it computes of its rows is in its caches when the next region asks for it. The tasks of a block of rows stand together.
fn split(sizes: &[usize], rows: usize, threads: usize) -> Vec<(usize, Part)> {
    let row_blocks = (rows / ROWS_OF_BLOCK).clamp(1, threads);
    let all: usize = sizes.iter().sum();
    let fair = (all * row_blocks).div_ceil(threads * TASKS_PER_THREAD).next_multiple_of(TILE_PANELS_MAX);
    let mut tasks = Vec::new();
    for block in 0..row_blocks {
        let tokens = rows * block / row_blocks..rows * (block + 1) / row_blocks;
        for (job, &panels) in sizes.iter().enumerate() {
            // So many of equal size, rather than a small one at the end.
            let size = panels.div_ceil(panels.div_ceil(fair).max(1)).next_multiple_of(TILE_PANELS_MAX).max(1);
            let parts = (0..panels).step_by(size).map(|first| first..panels.min(first + size));
            tasks.extend(parts.map(|panels| (job, Part { panels, tokens: tokens.clone() })));
        }
    }
    tasks
}

/// Ranges of at most `most` rows of one sequence each.
fn tiles_of_rows(rows: &[Row], most: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let sequence = rows.get(start)?.sequence;
        let end = start + rows[start..].iter().take(most).take_while(|row| row.sequence == sequence).count();
        Some(std::mem::replace(&mut start, end)..end)
    })
}

impl Backend for CpuBackend {
    type Matrix = PanelMatrix;
    type Vector = Vec<f32>;
    type Tensor = Tensor;
    type Pool = Pool;
    type Rope = Rope;

    fn device(&self) -> (&'static str, String, usize) {
        ("cpu", format!("{} {}", std::env::consts::ARCH, self.isa.name()), self.team.threads())
    }

    fn enter_thread(&mut self) {
        self.team.settle_caller();
    }

    fn numeric_contract(&self) -> &'static str {
        NUMERIC_CONTRACT
    }

    fn matrix(&self, weight: PanelMatrix) -> Result<PanelMatrix, BackendError> {
        if weight.columns() == 0 || !weight.columns().is_multiple_of(BLOCK) {
            let shape = vec![weight.rows(), weight.columns()];
            return Err(BackendError::Shape { shape, reason: "the inner dimension must be a multiple of 32" });
        }
        Ok(weight)
    }

    fn vector(&self, weight: Vec<f32>) -> Result<Vec<f32>, BackendError> {
        Ok(weight)
    }

    fn tensor(&self, rows: usize, width: usize) -> Result<Tensor, BackendError> {
        Ok(Tensor { data: reserved(rows * width)?, width })
    }

    fn rope(&self, shape: RopeShape, positions: usize) -> Result<Rope, BackendError> {
        Rope::new(shape, positions)
    }

    fn pool(&self, shape: CacheShape, pages: usize) -> Result<Pool, BackendError> {
        Pool::new(shape, pages)
    }

    fn page_bytes(&self, shape: CacheShape) -> usize {
        Pool::page_elements(shape) * size_of::<u16>()
    }

    fn prepare(&mut self, pool: &mut Pool, page: PageId) -> Result<(), BackendError> {
        pool.prepare(page)
    }

    fn embed(&mut self, table: &PanelMatrix, tokens: &[u32], out: &mut Tensor) {
        out.data.clear();
        for &token in tokens {
            table.panels().widen_row(token as usize, &mut out.data);
        }
    }

    fn norm(&mut self, x: &Tensor, gain: &Vec<f32>, eps: f32, out: &mut Tensor) {
        let isa = self.isa;
        out.set_rows(x.rows());
        let rows = x.data.chunks(x.width).zip(out.data.chunks_mut(x.width));
        each(&mut self.team, PARALLEL_ROWS, rows, &|(x, out)| {
            // SAFETY: `isa` was detected.
            #[allow(unsafe_code)]
            unsafe {
                rows::norm(isa, x, gain, eps, out);
            }
        });
    }

    fn project(&mut self, x: &Tensor, products: &mut [(&PanelMatrix, &mut Tensor)]) {
        self.quantize(x);
        let rows = x.rows();
        let jobs: Vec<_> = products
            .iter_mut()
            .map(|(matrix, out)| {
                out.set_rows(rows);
                let width = out.width;
                (*matrix, Output::new(&mut out.data, width), Epilogue::Store)
            })
            .collect();
        self.products(&jobs);
    }

    fn project_add(&mut self, w: &PanelMatrix, x: &Tensor, residual: &mut Tensor) {
        self.quantize(x);
        let width = residual.width;
        self.products(&[(w, Output::new(&mut residual.data, width), Epilogue::Add)]);
    }

    fn project_gated(&mut self, gate: &PanelMatrix, up: &PanelMatrix, x: &Tensor, out: &mut Tensor) {
        self.quantize(x);
        out.set_rows(x.rows());
        let (isa, width) = (self.isa, out.width);
        let (x, out) = (&self.quantized, Output::new(&mut out.data, width));
        let tasks = split(&[gate.rows().div_ceil(PANEL_ROWS)], x.rows(), self.team.threads());
        self.team.run(tasks.len(), &|task| {
            // A tile's gates are still in the first-level cache when their products with `up` are formed.
            let (_, Part { panels: all, tokens }) = &tasks[task];
            for first in all.clone().step_by(TILE_PANELS_MAX) {
                let part = Part { panels: first..all.end.min(first + TILE_PANELS_MAX), tokens: tokens.clone() };
                // SAFETY: tasks share no panel and token, so they write other elements of the output; `isa` was detected.
                #[allow(unsafe_code)]
                unsafe {
                    matmul::matmul(isa, gate.panels(), x, part.clone(), &out, Epilogue::Store);
                    matmul::matmul(isa, up.panels(), x, part, &out, Epilogue::Gate);
                }
            }
        });
    }

    fn attend(
        &mut self,
        shape: AttentionShape,
        layer: usize,
        placement: &Placement<'_>,
        rope: &Rope,
        mut qkv: Projections<'_, Self>,
        pool: &mut Pool,
        out: &mut Tensor,
    ) {
        self.turn_and_append(layer, shape, placement, rope, &mut qkv, pool);

        let (isa, pool) = (self.isa, &*pool);
        out.set_rows(placement.rows.len());
        let group_heads = shape.heads / shape.kv_heads;
        let group = group_heads * shape.head_dim;
        let (q, width) = (&*qkv.q, out.width);
        let out = Output::new(&mut out.data, width);
        // One task is a key/value head and a few rows of one sequence, with all query heads: they read the same pages.
        let tiles: Vec<Range<usize>> = tiles_of_rows(placement.rows, attention::rows_of_tile(group_heads)).collect();
        let one = |task: usize| {
            let (rows, kv_head) = (tiles[task / shape.kv_heads].clone(), task % shape.kv_heads);
            let columns = kv_head * group..(kv_head + 1) * group;
            let table = placement.tables[placement.rows[rows.start].sequence];
            let mut queries = Vec::with_capacity(rows.len() * group_heads);
            for row in rows {
                let length = placement.rows[row].position + 1;
                let reach = Reach { first: shape.window.map_or(0, |window| length.saturating_sub(window)), length };
                // SAFETY: each task has other rows or other heads, so nobody else has these elements.
                #[allow(unsafe_code)]
                let out = unsafe { out.part(row, columns.clone()) };
                let heads = q.row(row)[columns.clone()].chunks(shape.head_dim).zip(out.chunks_mut(shape.head_dim));
                queries.extend(heads.map(|(q, out)| Query { q, out, reach }));
            }
            // SAFETY: `isa` was detected.
            #[allow(unsafe_code)]
            unsafe {
                attention::attend(isa, shape.head_dim, Stored { pool, table, layer, kv_head }, &mut queries);
            }
        };
        let tasks = tiles.len() * shape.kv_heads;
        let per_task = tasks.div_ceil(self.team.threads() * ATTENTION_TASKS_PER_THREAD);
        self.team.run(tasks.div_ceil(per_task.max(1)), &|several| {
            (several * per_task..tasks.min((several + 1) * per_task)).for_each(one);
        });
    }

    fn gather(&mut self, x: &Tensor, rows: &[usize], out: &mut Tensor) {
        out.data.clear();
        for &row in rows {
            out.data.extend_from_slice(x.row(row));
        }
    }

    fn digest(&mut self, x: &Tensor, out: &mut Vec<Option<B256>>) {
        out.clear();
        out.resize(x.rows(), None);
        let rows = x.data.chunks(x.width).zip(out.iter_mut());
        each(&mut self.team, PARALLEL_ROWS, rows, &|(row, digest)| *digest = position_digest(row));
    }

    fn read(&self, x: &Tensor, out: &mut Vec<f32>) {
        out.clear();
        out.extend_from_slice(&x.data);
    }

    fn give(&self, x: &mut Tensor, out: &mut Vec<f32>) {
        std::mem::swap(&mut x.data, out);
    }

    fn read_row(&self, x: &Tensor, row: usize, out: &mut Vec<f32>) {
        out.extend_from_slice(&x.data[row * x.width..(row + 1) * x.width]);
    }
}

/// Room for so many elements, or an error where the system has none.
fn reserved(elements: usize) -> Result<Vec<f32>, BackendError> {
    let mut data = Vec::new();
    data.try_reserve_exact(elements).map_err(|_| BackendError::OutOfMemory { bytes: elements * size_of::<f32>() })?;
    Ok(data)
}

#[cfg(test)]
mod tests;
