//! Where the arithmetic runs.
//!
//! A back end owns weights, activations and KV caches wherever it computes; the engine holds them as opaque values. Its
//! promise: every output element has one reduction order, whatever rows stand beside it in the batch, so that prefill,
//! decode and any mixture give the same bits (`docs/numerics.md`).

pub mod cpu;

use crate::model::PanelMatrix;

pub use cpu::CpuBackend;

/// Why a back end could not take a model or a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    #[error("a weight of shape {shape:?} can't be computed on: {reason}")]
    Shape { shape: Vec<usize>, reason: &'static str },
    #[error("{bytes} bytes could not be allocated; free memory, or lower kv_budget_bytes")]
    OutOfMemory { bytes: usize },
}

/// One token of a step: which of the step's caches it belongs to, and its place in that sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub cache: usize,
    pub position: usize,
}

/// Shape of one sequence's keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// Constants of attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// Queries, keys and values of a step's rows, before rotation.
pub struct Projections<'a, T> {
    pub q: &'a mut T,
    pub k: &'a mut T,
    pub v: &'a T,
}

/// The operations of a Llama-family forward pass. Shapes are checked by the caller ([`crate::engine`]) when the model is
/// loaded; a row is a token, and every operation treats rows independently.
pub trait Backend: Send + 'static {
    /// Weights `[outputs × inputs]`.
    type Matrix: Send;
    /// Gains of a norm.
    type Vector: Send;
    /// Activations `[rows × width]`, with room for the most rows of a step.
    type Tensor: Send;
    /// Keys and values of one sequence, all layers.
    type Cache: Send;
    /// Rotation angles by position.
    type Rope: Send;

    /// `cpu` or `cuda`, the device's name, and how many threads or multiprocessors work.
    fn device(&self) -> (&'static str, String, usize);
    /// Name of the arithmetic, part of the receipt's `engine`. Equal names promise equal bits.
    fn numeric_contract(&self) -> &'static str;

    fn matrix(&self, weight: &PanelMatrix) -> Result<Self::Matrix, BackendError>;
    fn vector(&self, weight: Vec<f32>) -> Result<Self::Vector, BackendError>;
    fn tensor(&self, rows: usize, width: usize) -> Result<Self::Tensor, BackendError>;
    fn rope(&self, theta: f64, head_dim: usize, positions: usize) -> Result<Self::Rope, BackendError>;
    fn cache(&self, shape: CacheShape, tokens: usize) -> Result<Self::Cache, BackendError>;
    /// Bytes that a cache for so many tokens takes.
    fn cache_bytes(&self, shape: CacheShape, tokens: usize) -> usize;

    /// `out[i] = table[tokens[i]]`.
    fn embed(&mut self, table: &Self::Matrix, tokens: &[u32], out: &mut Self::Tensor);
    /// `out = x / sqrt(mean(x²) + eps) · gain`, row by row.
    fn norm(&mut self, x: &Self::Tensor, gain: &Self::Vector, eps: f32, out: &mut Self::Tensor);
    /// `out = W x` for several matrices over one input.
    fn project(&mut self, x: &Self::Tensor, products: &mut [(&Self::Matrix, &mut Self::Tensor)]);
    /// `residual += W x`.
    fn project_add(&mut self, w: &Self::Matrix, x: &Self::Tensor, residual: &mut Self::Tensor);
    /// `out = silu(gate x) · (up x)`, element by element.
    fn project_gated(&mut self, gate: &Self::Matrix, up: &Self::Matrix, x: &Self::Tensor, out: &mut Self::Tensor);
    /// Rotates queries and keys, appends keys and values to the caches, and attends to every position up to the row's own.
    ///
    /// Rows of one cache come in ascending positions without gaps.
    #[allow(clippy::too_many_arguments)]
    fn attend(
        &mut self,
        shape: AttentionShape,
        layer: usize,
        rows: &[Row],
        rope: &Self::Rope,
        qkv: Projections<'_, Self::Tensor>,
        caches: &mut [&mut Self::Cache],
        out: &mut Self::Tensor,
    );
    /// `out[i] = x[rows[i]]`.
    fn gather(&mut self, x: &Self::Tensor, rows: &[usize], out: &mut Self::Tensor);
    /// Copies all rows to host memory.
    fn read(&self, x: &Self::Tensor, out: &mut Vec<f32>);
}
