//! f32 arithmetic over f16, bf16 or f32 weights on the processor's vector units; numeric contract `f32-ref-0`.

mod exps;
mod kernels;
mod lanes;
mod math;
mod team;

use std::ops::Range;

pub(crate) use exps::weights;
use kernels::{Epilogue, Head, LANES, Output, Product};
pub use lanes::Isa;
pub(crate) use math::exp;
pub use team::Team;

use super::{AttentionShape, Backend, BackendError, CacheShape, Projections, Row};
use crate::model::PanelMatrix;

/// Rows of a task are a multiple of this, the tallest tile.
const TASK_ROWS: usize = 8;
/// Tasks of a region per thread: more than one, so that a thread that was put aside leaves little behind.
const TASKS_PER_THREAD: usize = 4;

/// Weights widened to f32.
pub struct Matrix {
    data: Vec<u8>,
    rows: usize,
    columns: usize,
}

/// Activations in host memory.
pub struct Tensor {
    data: Vec<f32>,
    width: usize,
}

impl Tensor {
    fn set_rows(&mut self, rows: usize) {
        self.data.resize(rows * self.width, 0.0);
    }

    fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.width..(index + 1) * self.width]
    }
}

/// f16 keys and values, `[layer × kv_head × position × head_dim]`.
pub struct Cache {
    shape: CacheShape,
    tokens: usize,
    keys: Vec<u8>,
    values: Vec<u8>,
}

impl Cache {
    fn head_range(&self, layer: usize, kv_head: usize) -> Range<usize> {
        let bytes = self.tokens * self.shape.head_dim * 2;
        let start = (layer * self.shape.kv_heads + kv_head) * bytes;
        start..start + bytes
    }
}

/// Cosine and sine by position and pair.
pub struct Rope {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

/// The processor's cores.
pub struct CpuBackend {
    isa: Isa,
    team: Team,
}

impl CpuBackend {
    /// Uses the best instruction set and `threads` threads.
    pub fn new(threads: usize) -> Self {
        Self::with_isa(threads, Isa::best())
    }

    /// Uses `isa`, or the best one when the processor lacks it.
    pub fn with_isa(threads: usize, isa: Isa) -> Self {
        let isa = if Isa::available().contains(&isa) { isa } else { Isa::best() };
        Self { isa, team: Team::new(threads.max(1)) }
    }

    /// Computes several products over one input in one parallel region.
    fn products(&mut self, x: &Tensor, jobs: &[(&Matrix, Output<'_>, Epilogue)]) {
        let isa = self.isa;
        let all_rows: usize = jobs.iter().map(|(matrix, ..)| matrix.rows).sum();
        let wanted = all_rows.div_ceil(self.team.threads() * TASKS_PER_THREAD).max(TASK_ROWS);
        let task_rows = wanted.next_multiple_of(TASK_ROWS);
        let tasks: Vec<(usize, Range<usize>)> = jobs
            .iter()
            .enumerate()
            .flat_map(|(job, (matrix, ..))| {
                let rows = matrix.rows;
                (0..rows).step_by(task_rows).map(move |first| (job, first..(first + task_rows).min(rows)))
            })
            .collect();
        self.team.run(tasks.len(), &|task| {
            let (job, rows) = &tasks[task];
            let (matrix, out, epilogue) = &jobs[*job];
            // SAFETY: tasks of one output have disjoint rows of its matrix, so disjoint columns; `isa` was detected.
            #[allow(unsafe_code)]
            unsafe {
                kernels::matmul(isa, matrix.product(x), rows.clone(), out, *epilogue);
            }
        });
    }
}

impl Matrix {
    fn product<'a>(&'a self, x: &'a Tensor) -> Product<'a> {
        Product { weights: &self.data, dtype: kernels::DType::F32, columns: self.columns, x: &x.data }
    }
}

impl Backend for CpuBackend {
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type Tensor = Tensor;
    type Cache = Cache;
    type Rope = Rope;

    fn device(&self) -> (&'static str, String, usize) {
        ("cpu", format!("{} {}", std::env::consts::ARCH, self.isa.name()), self.team.threads())
    }

    fn numeric_contract(&self) -> &'static str {
        "f32-ref-0"
    }

    fn matrix(&self, weight: &PanelMatrix) -> Result<Matrix, BackendError> {
        let data = weight.panels().to_f32().iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(Matrix { data, rows: weight.rows(), columns: weight.columns() })
    }

    fn vector(&self, weight: Vec<f32>) -> Result<Vec<f32>, BackendError> {
        Ok(weight)
    }

    fn tensor(&self, rows: usize, width: usize) -> Result<Tensor, BackendError> {
        Ok(Tensor { data: reserved(rows * width)?, width })
    }

    fn rope(&self, theta: f64, head_dim: usize, positions: usize) -> Result<Rope, BackendError> {
        let half = head_dim / 2;
        let (mut cos, mut sin) = (reserved(half * positions)?, reserved(half * positions)?);
        for position in 0..positions {
            for pair in 0..half {
                let angle = position as f64 * theta.powf(-((2 * pair) as f64) / head_dim as f64);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        Ok(Rope { cos, sin, half })
    }

    fn cache(&self, shape: CacheShape, tokens: usize) -> Result<Cache, BackendError> {
        let bytes = self.cache_bytes(shape, tokens) / 2;
        // Zeroed memory is given by the system page by page, when it is first written: a long reservation costs nothing yet.
        Ok(Cache { shape, tokens, keys: vec![0; bytes], values: vec![0; bytes] })
    }

    fn cache_bytes(&self, shape: CacheShape, tokens: usize) -> usize {
        shape.layers * shape.kv_heads * shape.head_dim * tokens * 2 * 2
    }

    fn embed(&mut self, table: &Matrix, tokens: &[u32], out: &mut Tensor) {
        out.data.clear();
        for &token in tokens {
            let row = &table.data[token as usize * table.columns * 4..(token as usize + 1) * table.columns * 4];
            out.data.extend(row.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
        }
    }

    fn norm(&mut self, x: &Tensor, gain: &Vec<f32>, eps: f32, out: &mut Tensor) {
        out.data.clear();
        for row in x.data.chunks_exact(x.width) {
            let mut lanes = [0.0f32; LANES];
            for chunk in row.as_chunks::<LANES>().0 {
                for (lane, value) in lanes.iter_mut().zip(chunk) {
                    *lane += value * value;
                }
            }
            let mean = math::sum_lanes(lanes) / x.width as f32;
            let factor = 1.0 / (mean + eps).sqrt();
            out.data.extend(row.iter().zip(gain).map(|(value, gain)| value * factor * gain));
        }
    }

    fn project(&mut self, x: &Tensor, products: &mut [(&Matrix, &mut Tensor)]) {
        let rows = x.data.len() / x.width;
        let jobs: Vec<_> = products
            .iter_mut()
            .map(|(matrix, out)| {
                out.set_rows(rows);
                let width = out.width;
                (*matrix, Output::new(&mut out.data, width), Epilogue::Store)
            })
            .collect();
        self.products(x, &jobs);
    }

    fn project_add(&mut self, w: &Matrix, x: &Tensor, residual: &mut Tensor) {
        let width = residual.width;
        self.products(x, &[(w, Output::new(&mut residual.data, width), Epilogue::Add)]);
    }

    fn project_gated(&mut self, gate: &Matrix, up: &Matrix, x: &Tensor, out: &mut Tensor) {
        let isa = self.isa;
        out.set_rows(x.data.len() / x.width);
        let width = out.width;
        let out = Output::new(&mut out.data, width);
        let rows = gate.rows;
        let task_rows = rows.div_ceil(self.team.threads() * TASKS_PER_THREAD).next_multiple_of(TASK_ROWS);
        self.team.run(rows.div_ceil(task_rows), &|task| {
            let range = task * task_rows..((task + 1) * task_rows).min(rows);
            // SAFETY: tasks have disjoint rows, so disjoint columns of the output; `isa` was detected.
            #[allow(unsafe_code)]
            unsafe {
                kernels::matmul(isa, gate.product(x), range.clone(), &out, Epilogue::Store);
                kernels::matmul(isa, up.product(x), range, &out, Epilogue::Gate);
            }
        });
    }

    fn attend(
        &mut self,
        shape: AttentionShape,
        layer: usize,
        rows: &[Row],
        rope: &Rope,
        qkv: Projections<'_, Tensor>,
        caches: &mut [&mut Cache],
        out: &mut Tensor,
    ) {
        let isa = self.isa;
        let Projections { q, k, v } = qkv;
        for (index, row) in rows.iter().enumerate() {
            rope.rotate(row.position, q, index);
            rope.rotate(row.position, k, index);
            caches[row.cache].append(isa, layer, row.position, k.row(index), v.row(index));
        }

        out.set_rows(rows.len());
        let group = shape.heads / shape.kv_heads;
        let (q, caches) = (&*q, &*caches);
        let heads: Vec<std::sync::Mutex<&mut [f32]>> = out.data.chunks_mut(shape.head_dim).map(std::sync::Mutex::new).collect();
        let units = rows.len() * shape.heads;
        let per_task = units.div_ceil(self.team.threads() * TASKS_PER_THREAD).max(1);
        self.team.run(units.div_ceil(per_task), &|task| {
            let mut scores = Vec::new();
            let taken = task * per_task..((task + 1) * per_task).min(units);
            for (unit, out) in taken.clone().zip(&heads[taken]) {
                let (index, head) = (unit / shape.heads, unit % shape.heads);
                let (row, cache) = (rows[index], &caches[rows[index].cache]);
                let range = cache.head_range(layer, head / group);
                let stored = Head { keys: &cache.keys[range.clone()], values: &cache.values[range] };
                let query = &q.row(index)[head * shape.head_dim..(head + 1) * shape.head_dim];
                // Each unit is taken by one task, so the lock is never waited for.
                let Ok(mut out) = out.lock() else { continue };
                // SAFETY: `isa` was detected.
                #[allow(unsafe_code)]
                unsafe {
                    kernels::attend(isa, query, stored, row.position + 1, &mut scores, &mut out);
                }
            }
        });
    }

    fn gather(&mut self, x: &Tensor, rows: &[usize], out: &mut Tensor) {
        out.data.clear();
        for &row in rows {
            out.data.extend_from_slice(x.row(row));
        }
    }

    fn read(&self, x: &Tensor, out: &mut Vec<f32>) {
        out.clear();
        out.extend_from_slice(&x.data);
    }
}

impl Rope {
    /// Rotates the pairs `(i, i + head_dim/2)` of every head in a row.
    fn rotate(&self, position: usize, tensor: &mut Tensor, row: usize) {
        let (half, width) = (self.half, tensor.width);
        let angles = position * half..(position + 1) * half;
        let (cos, sin) = (&self.cos[angles.clone()], &self.sin[angles]);
        for head in tensor.data[row * width..(row + 1) * width].chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for i in 0..half {
                let (a, b) = (low[i], high[i]);
                low[i] = a * cos[i] - b * sin[i];
                high[i] = b * cos[i] + a * sin[i];
            }
        }
    }
}

impl Cache {
    fn append(&mut self, isa: Isa, layer: usize, position: usize, k: &[f32], v: &[f32]) {
        let head_dim = self.shape.head_dim;
        for kv_head in 0..self.shape.kv_heads {
            let start = self.head_range(layer, kv_head).start + position * head_dim * 2;
            let place = start..start + head_dim * 2;
            let from = kv_head * head_dim..(kv_head + 1) * head_dim;
            // SAFETY: `isa` was detected.
            #[allow(unsafe_code)]
            unsafe {
                kernels::narrow(isa, &k[from.clone()], &mut self.keys[place.clone()]);
                kernels::narrow(isa, &v[from], &mut self.values[place]);
            }
        }
    }
}

/// An empty vector with room for `count` elements, or an error instead of an abort.
fn reserved(count: usize) -> Result<Vec<f32>, BackendError> {
    let mut out = Vec::new();
    out.try_reserve_exact(count).map_err(|_| BackendError::OutOfMemory { bytes: count.saturating_mul(4) })?;
    Ok(out)
}

#[cfg(test)]
mod tests;
