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
use matmul::{Epilogue, Output, TILE_PANELS_MAX};
pub use pool::Pool;
pub use rows::Rope;
use rows::Turn;
pub use team::Team;

use super::{AttentionShape, Backend, BackendError, CacheShape, PAGE_TOKENS, PageId, Placement, Projections, RopeShape, Row};
use crate::model::PanelMatrix;
use crate::model::panels::{BLOCK, PANEL_ROWS};
use crate::proof::position_digest;

/// Name of the arithmetic (`docs/numerics.md`).
pub const NUMERIC_CONTRACT: &str = "parallelix-x8-1";
/// Tasks of a region per thread: more than one, so that a thread that was put aside leaves little behind.
const TASKS_PER_THREAD: usize = 4;
/// Multiplications of a task of products, above which there are more tasks: whoever claims the last one is waited for. About 100 µs.
const TASK_PRODUCTS_MAX: usize = 32 << 20;
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

    /// Uses `isa`, or the best one when the processor lacks it.
    pub fn with_isa(threads: usize, isa: Isa) -> Self {
        let isa = if Isa::available().contains(&isa) { isa } else { Isa::best() };
        Self { isa, team: Team::new(threads.max(1)), quantized: Activations::default() }
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
        let tasks = split(&sizes, PANEL_ROWS * x.columns * x.rows(), self.team.threads());
        self.team.run(tasks.len(), &|task| {
            let (job, panels) = &tasks[task];
            let (matrix, out, epilogue) = &jobs[*job];
            // SAFETY: tasks of one output have disjoint panels of its matrix, so disjoint columns; `isa` was detected.
            #[allow(unsafe_code)]
            unsafe {
                matmul::matmul(isa, matrix.panels(), x, panels.clone(), out, *epilogue);
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

/// Ranges of panels as tasks, about equal, of whole tiles where there are any, none across two jobs. `panel_products` are one panel's
/// multiplications.
fn split(sizes: &[usize], panel_products: usize, threads: usize) -> Vec<(usize, Range<usize>)> {
    let all: usize = sizes.iter().sum();
    let fair = all.div_ceil(threads * TASKS_PER_THREAD);
    let size = fair.min(TASK_PRODUCTS_MAX / panel_products.max(1)).max(1).next_multiple_of(TILE_PANELS_MAX);
    let of_job = |(job, &panels): (usize, &usize)| (0..panels).step_by(size).map(move |first| (job, first..panels.min(first + size)));
    sizes.iter().enumerate().flat_map(of_job).collect()
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
        let tasks = split(&[gate.rows().div_ceil(PANEL_ROWS)], 2 * PANEL_ROWS * x.columns * x.rows(), self.team.threads());
        self.team.run(tasks.len(), &|task| {
            // A tile's gates are still in the first-level cache when their products with `up` are formed.
            let (_, all) = &tasks[task];
            for first in all.clone().step_by(TILE_PANELS_MAX) {
                let panels = first..all.end.min(first + TILE_PANELS_MAX);
                // SAFETY: tasks have disjoint panels, so disjoint columns of the output; `isa` was detected.
                #[allow(unsafe_code)]
                unsafe {
                    matmul::matmul(isa, gate.panels(), x, panels.clone(), &out, Epilogue::Store);
                    matmul::matmul(isa, up.panels(), x, panels, &out, Epilogue::Gate);
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
        let mut units: Vec<_> = qkv.q.data.chunks(group).zip(out.data.chunks_mut(group)).map(Some).collect();
        // One task is a key/value head and a few rows of one sequence, with all query heads: they read the same pages.
        let mut tasks: Vec<(Stored<'_>, Vec<Query<'_>>)> = Vec::new();
        for rows in tiles_of_rows(placement.rows, attention::rows_of_tile(group_heads)) {
            let table = placement.tables[placement.rows[rows.start].sequence];
            for kv_head in 0..shape.kv_heads {
                let mut queries = Vec::with_capacity(rows.len() * group_heads);
                for row in rows.clone() {
                    let length = placement.rows[row].position + 1;
                    let reach = Reach { first: shape.window.map_or(0, |window| length.saturating_sub(window)), length };
                    let Some((q, out)) = units[row * shape.kv_heads + kv_head].take() else { continue };
                    let heads = q.chunks(shape.head_dim).zip(out.chunks_mut(shape.head_dim));
                    queries.extend(heads.map(|(q, out)| Query { q, out, reach }));
                }
                tasks.push((Stored { pool, table, layer, kv_head }, queries));
            }
        }
        each(&mut self.team, 2, tasks.into_iter(), &|(stored, mut queries)| {
            // SAFETY: `isa` was detected.
            #[allow(unsafe_code)]
            unsafe {
                attention::attend(isa, shape.head_dim, stored, &mut queries);
            }
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
