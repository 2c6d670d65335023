//! Where the arithmetic runs.
//!
//! A back end owns weights, activations and KV pages wherever it computes; the engine holds them as opaque values. Its
//! promise: every output element has one order of operations, whatever rows stand beside it in the batch, on every device
//! (`docs/numerics.md`).

mod choice; // which device computes
pub mod cpu;
pub mod cuda;
mod draw; // tokens that a device draws

use alloy::primitives::B256;

use crate::model::{PanelMatrix, RopeScaling};

pub use choice::{BackendConfig, BackendKind};
pub use cpu::CpuBackend;
pub use draw::{Change, Draw, Found};

/// Positions of a KV page, and of a chunk of the contract's softmax.
pub const PAGE_TOKENS: usize = 64;

/// Why a back end could not take a model or a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    #[error("a weight of shape {shape:?} can't be computed on: {reason}")]
    Shape { shape: Vec<usize>, reason: &'static str },
    #[error("{bytes} bytes could not be allocated; free memory, or lower kv_budget_bytes")]
    OutOfMemory { bytes: usize },
    #[error("the device failed: {0}")]
    Device(String),
}

/// One page of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId(pub u32);

/// One token of a step: which of the step's sequences it belongs to, and its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub sequence: usize,
    pub position: usize,
}

/// Shape of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// Constants of the rotation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeShape {
    pub theta: f64,
    pub head_dim: usize,
    pub scaling: RopeScaling,
}

/// Constants of attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// A position attends to so many positions up to its own; to all when `None`.
    pub window: Option<usize>,
}

/// Queries, keys and values of a step's rows as the projections left them, and what is done to them first.
pub struct Projections<'a, B: Backend> {
    pub q: &'a mut B::Tensor,
    pub k: &'a mut B::Tensor,
    pub v: &'a mut B::Tensor,
    /// Of queries, keys and values.
    pub bias: Option<[&'a B::Vector; 3]>,
    /// Gains of the norm of each query and key head, before rotation.
    pub norm: Option<[&'a B::Vector; 2]>,
    pub eps: f32,
}

/// Where the rows of a step stand.
pub struct Placement<'a> {
    pub rows: &'a [Row],
    /// Pages of each sequence in the order of its positions, prepared, enough for its rows.
    pub tables: &'a [&'a [PageId]],
}

/// The operations of a Llama-family forward pass. Shapes are checked by the caller ([`crate::engine`]) when the model is
/// loaded; a row is a token, and every operation treats rows independently.
pub trait Backend: Send + Sized + 'static {
    /// Weights `[outputs × inputs]`.
    type Matrix: Send;
    /// Gains or biases.
    type Vector: Send;
    /// Activations `[rows × width]`, with room for the most rows of a step.
    type Tensor: Send;
    /// Pages of keys and values.
    type Pool: Send;
    /// Rotation angles by position.
    type Rope: Send;

    /// `cpu` or `cuda`, the device's name, and how many threads or multiprocessors work.
    fn device(&self) -> (&'static str, String, usize);
    /// On the thread that makes every later call, when it does nothing else.
    fn enter_thread(&mut self) {}
    /// Memory of the device, where it has its own.
    fn memory_bytes(&self) -> Option<u64> {
        None
    }
    /// Name of the arithmetic, part of the receipt's `engine`. Equal names promise equal bits.
    fn numeric_contract(&self) -> &'static str;

    fn matrix(&self, weight: PanelMatrix) -> Result<Self::Matrix, BackendError>;
    fn vector(&self, weight: Vec<f32>) -> Result<Self::Vector, BackendError>;
    fn tensor(&self, rows: usize, width: usize) -> Result<Self::Tensor, BackendError>;
    fn rope(&self, shape: RopeShape, positions: usize) -> Result<Self::Rope, BackendError>;
    /// A pool of at most so many pages.
    fn pool(&self, shape: CacheShape, pages: usize) -> Result<Self::Pool, BackendError>;
    /// Bytes of one page.
    fn page_bytes(&self, shape: CacheShape) -> usize;
    /// Bytes that pages may take, once the weights are loaded; `configured` where host memory is taken as it is needed.
    fn kv_budget_bytes(&self, configured: usize) -> usize {
        configured
    }
    /// Why the device computes nothing any more; what a step gave since is worthless.
    fn fault(&self) -> Option<String> {
        None
    }
    /// Before the operations of a step, with all that they will be given.
    fn begin_step(&mut self, _shape: AttentionShape, _placement: &Placement<'_>, _tokens: &[u32], _chosen: &[usize]) {}
    /// After the last operation of a step; what follows reads its results.
    fn end_step(&mut self) {}
    /// Gives a page its memory, if it has none yet.
    fn prepare(&mut self, pool: &mut Self::Pool, page: PageId) -> Result<(), BackendError>;

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
    /// Adds biases, norms heads, rotates queries and keys, writes keys and values to the pages, and attends to the positions in reach.
    ///
    /// Rows of one sequence come in ascending positions without gaps.
    #[allow(clippy::too_many_arguments)]
    fn attend(
        &mut self,
        shape: AttentionShape,
        layer: usize,
        placement: &Placement<'_>,
        rope: &Self::Rope,
        qkv: Projections<'_, Self>,
        pool: &mut Self::Pool,
        out: &mut Self::Tensor,
    );
    /// `out[i] = x[rows[i]]`.
    fn gather(&mut self, x: &Self::Tensor, rows: &[usize], out: &mut Self::Tensor);
    /// [`crate::proof::position_digest`] of every row.
    fn digest(&mut self, x: &Self::Tensor, out: &mut Vec<Option<B256>>);
    /// Whether [`Self::draw`] draws; elsewhere reading the rows is as good.
    fn draws(&self) -> bool {
        false
    }
    /// Draws a token from each row of logits, which stay as they are; a row that is given nothing stays open.
    fn draw(&mut self, _logits: &Self::Tensor, draws: &[Option<Draw>], out: &mut Vec<Found>) {
        out.extend(draws.iter().map(|_| Found::Open));
    }
    /// Copies all rows to host memory.
    fn read(&self, x: &Self::Tensor, out: &mut Vec<f32>);
    /// Gives all rows to host memory; `x` is not read again before it is written.
    fn give(&self, x: &mut Self::Tensor, out: &mut Vec<f32>) {
        self.read(x, out);
    }
    /// Copies one row to host memory, behind what is there.
    fn read_row(&self, x: &Self::Tensor, row: usize, out: &mut Vec<f32>);
}
