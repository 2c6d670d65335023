//! The Llama-family forward pass over a back end: any mixture of rows in, hidden states and chosen logits out.

use alloy::primitives::B256;

use crate::backend::{
    AttentionShape, Backend, BackendError, CacheShape, Draw, Found, PAGE_TOKENS, PageId, Placement, Projections, RopeShape,
};
use crate::model::{DecoderConfig, ModelFolder, WeightsError};

/// Why a model was not loaded into a back end.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Backend(#[from] BackendError),
}

struct Layer<B: Backend> {
    attention_norm: B::Vector,
    qkv_bias: Option<[B::Vector; 3]>,
    qk_norm: Option<[B::Vector; 2]>,
    q: B::Matrix,
    k: B::Matrix,
    v: B::Matrix,
    o: B::Matrix,
    ffn_norm: B::Vector,
    gate: B::Matrix,
    up: B::Matrix,
    down: B::Matrix,
}

/// Activations of one step, made once with room for the largest.
struct Scratch<B: Backend> {
    residual: B::Tensor,
    normed: B::Tensor,
    q: B::Tensor,
    k: B::Tensor,
    v: B::Tensor,
    attended: B::Tensor,
    gated: B::Tensor,
    chosen: B::Tensor,
    logits: B::Tensor,
}

/// A model on a back end.
pub struct Decoder<B: Backend> {
    backend: B,
    config: DecoderConfig,
    embedding: B::Matrix,
    layers: Vec<Layer<B>>,
    final_norm: B::Vector,
    /// `None`: the embedding table is the output matrix.
    lm_head: Option<B::Matrix>,
    rope: B::Rope,
    scratch: Scratch<B>,
    max_rows: usize,
}

/// What a step computed, in host memory.
#[derive(Debug, Default)]
pub struct StepOutput {
    /// Digests of the rows' final-norm hidden states; `None` where one is not finite.
    pub digests: Vec<Option<B256>>,
    /// Asks for `hidden`.
    pub keep_hidden: bool,
    /// Final-norm hidden states `[rows × dim]`, when asked for.
    pub hidden: Vec<f32>,
    /// What the device is to draw, one for each chosen row; empty: nothing.
    pub draws: Vec<Option<Draw>>,
    /// What it found, one for each chosen row; empty when it was to draw nothing.
    pub found: Vec<Found>,
    /// Logits `[chosen rows × vocabulary]`, without the rows in which something was found.
    pub logits: Vec<f32>,
}

impl<B: Backend> Decoder<B> {
    /// Takes every tensor from the folder, each checked against the configuration.
    pub fn load(folder: &ModelFolder, backend: B, context_tokens: usize, max_rows: usize) -> Result<Self, LoadError> {
        let config = folder.config.clone();
        let (dim, hidden, q_dim, kv_dim) = (config.dim, config.hidden_dim, config.q_dim(), config.kv_dim());
        let matrix = |name: &str, rows: usize, columns: usize| -> Result<B::Matrix, LoadError> {
            Ok(backend.matrix(folder.weights.matrix(name, rows, columns)?)?)
        };
        let vector =
            |name: &str, length: usize| -> Result<B::Vector, LoadError> { Ok(backend.vector(folder.weights.vector(name, length)?)?) };

        let mut layers = Vec::with_capacity(config.n_layers);
        for index in 0..config.n_layers {
            let name = |part: &str| format!("model.layers.{index}.{part}.weight");
            let bias = |part: &str, length: usize| vector(&format!("model.layers.{index}.self_attn.{part}_proj.bias"), length);
            let head_norm = |part: &str| vector(&name(&format!("self_attn.{part}_norm")), config.head_dim);
            layers.push(Layer {
                attention_norm: vector(&name("input_layernorm"), dim)?,
                qkv_bias: if config.qkv_bias { Some([bias("q", q_dim)?, bias("k", kv_dim)?, bias("v", kv_dim)?]) } else { None },
                qk_norm: if config.qk_norm { Some([head_norm("q")?, head_norm("k")?]) } else { None },
                q: matrix(&name("self_attn.q_proj"), q_dim, dim)?,
                k: matrix(&name("self_attn.k_proj"), kv_dim, dim)?,
                v: matrix(&name("self_attn.v_proj"), kv_dim, dim)?,
                o: matrix(&name("self_attn.o_proj"), dim, q_dim)?,
                ffn_norm: vector(&name("post_attention_layernorm"), dim)?,
                gate: matrix(&name("mlp.gate_proj"), hidden, dim)?,
                up: matrix(&name("mlp.up_proj"), hidden, dim)?,
                down: matrix(&name("mlp.down_proj"), dim, hidden)?,
            });
        }
        let embedding = matrix("model.embed_tokens.weight", config.vocab_size, dim)?;
        let final_norm = vector("model.norm.weight", dim)?;
        let lm_head = if config.tied_embeddings { None } else { Some(matrix("lm_head.weight", config.vocab_size, dim)?) };

        let scratch = Scratch {
            residual: backend.tensor(max_rows, dim)?,
            normed: backend.tensor(max_rows, dim)?,
            q: backend.tensor(max_rows, q_dim)?,
            k: backend.tensor(max_rows, kv_dim)?,
            v: backend.tensor(max_rows, kv_dim)?,
            attended: backend.tensor(max_rows, q_dim)?,
            gated: backend.tensor(max_rows, hidden)?,
            chosen: backend.tensor(max_rows, dim)?,
            logits: backend.tensor(0, config.vocab_size)?,
        };
        let rope = backend
            .rope(RopeShape { theta: config.rope_theta, head_dim: config.head_dim, scaling: config.rope_scaling }, context_tokens)?;
        Ok(Self { backend, config, embedding, layers, final_norm, lm_head, rope, scratch, max_rows })
    }

    /// On the thread that makes every later call, when it does nothing else.
    pub fn enter_thread(&mut self) {
        self.backend.enter_thread();
    }

    /// A pool of at most so many pages of keys and values.
    pub fn pool(&self, pages: usize) -> Result<B::Pool, BackendError> {
        self.backend.pool(self.cache_shape(), pages)
    }

    /// Bytes of one page.
    pub fn page_bytes(&self) -> usize {
        self.backend.page_bytes(self.cache_shape())
    }

    /// Gives a page its memory. Every page of a step's tables must have been given some.
    pub fn prepare(&mut self, pool: &mut B::Pool, page: PageId) -> Result<(), BackendError> {
        self.backend.prepare(pool, page)
    }

    /// Multiplications and additions of weights for one token.
    pub fn operations_per_token(&self) -> u64 {
        self.config.operations_per_token()
    }

    pub fn dim(&self) -> usize {
        self.config.dim
    }

    pub fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    /// Most rows that one step may have.
    pub fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// Computes `rows[i]` for `tokens[i]` and logits for the rows in `chosen`. Rows of one sequence stand in ascending
    /// positions without gaps, following what its pages hold; tokens are inside the vocabulary.
    pub fn step(&mut self, placement: &Placement<'_>, tokens: &[u32], pool: &mut B::Pool, chosen: &[usize], out: &mut StepOutput) {
        debug_assert!(placement.rows.iter().all(|row| row.position / PAGE_TOKENS < placement.tables[row.sequence].len()));
        let Self { backend, config, scratch: s, .. } = self;
        let shape =
            AttentionShape { heads: config.n_heads, kv_heads: config.n_kv_heads, head_dim: config.head_dim, window: config.sliding_window };
        let eps = config.norm_eps;

        backend.begin_step(shape, placement, tokens, chosen);
        backend.embed(&self.embedding, tokens, &mut s.residual);
        for (index, layer) in self.layers.iter().enumerate() {
            backend.norm(&s.residual, &layer.attention_norm, eps, &mut s.normed);
            backend.project(&s.normed, &mut [(&layer.q, &mut s.q), (&layer.k, &mut s.k), (&layer.v, &mut s.v)]);
            let qkv = Projections {
                q: &mut s.q,
                k: &mut s.k,
                v: &mut s.v,
                bias: layer.qkv_bias.as_ref().map(|bias| bias.each_ref()),
                norm: layer.qk_norm.as_ref().map(|norm| norm.each_ref()),
                eps,
            };
            backend.attend(shape, index, placement, &self.rope, qkv, pool, &mut s.attended);
            backend.project_add(&layer.o, &s.attended, &mut s.residual);

            backend.norm(&s.residual, &layer.ffn_norm, eps, &mut s.normed);
            backend.project_gated(&layer.gate, &layer.up, &s.normed, &mut s.gated);
            backend.project_add(&layer.down, &s.gated, &mut s.residual);
        }
        backend.norm(&s.residual, &self.final_norm, eps, &mut s.normed);
        if !chosen.is_empty() {
            backend.gather(&s.normed, chosen, &mut s.chosen);
            let lm_head = self.lm_head.as_ref().unwrap_or(&self.embedding);
            backend.project(&s.chosen, &mut [(lm_head, &mut s.logits)]);
        }
        backend.end_step();

        backend.digest(&s.normed, &mut out.digests);
        if out.keep_hidden {
            backend.read(&s.normed, &mut out.hidden);
        }
        out.found.clear();
        if !chosen.is_empty() && out.draws.is_empty() {
            backend.give(&mut s.logits, &mut out.logits);
            return;
        }
        out.logits.clear();
        if chosen.is_empty() {
            return;
        }
        backend.draw(&s.logits, &out.draws, &mut out.found);
        for (row, _) in out.found.iter().enumerate().filter(|(_, found)| **found == Found::Open) {
            backend.read_row(&s.logits, row, &mut out.logits);
        }
    }

    /// Whether the device draws tokens itself.
    pub fn draws(&self) -> bool {
        self.backend.draws()
    }

    /// Draws from the chosen rows of the last step, once more or in another way.
    pub fn draw(&mut self, draws: &[Option<Draw>], out: &mut Vec<Found>) {
        out.clear();
        self.backend.draw(&self.scratch.logits, draws, out);
    }

    /// Logits `[rows × vocabulary]` of rows of the last step, for a caller that wants them a few at a time.
    pub fn logits(&mut self, rows: &[usize], out: &mut Vec<f32>) {
        if rows.is_empty() {
            out.clear();
            return;
        }
        let Self { backend, scratch: s, .. } = self;
        backend.gather(&s.normed, rows, &mut s.chosen);
        let lm_head = self.lm_head.as_ref().unwrap_or(&self.embedding);
        backend.project(&s.chosen, &mut [(lm_head, &mut s.logits)]);
        backend.give(&mut s.logits, out);
    }

    /// Where it computes.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Why the device computes nothing any more; the last step's results are worthless then.
    pub fn fault(&self) -> Option<String> {
        self.backend.fault()
    }

    /// Bytes that the pages of keys and values may take.
    pub fn kv_budget_bytes(&self, configured: usize) -> usize {
        self.backend.kv_budget_bytes(configured)
    }

    fn cache_shape(&self) -> CacheShape {
        CacheShape { layers: self.config.n_layers, kv_heads: self.config.n_kv_heads, head_dim: self.config.head_dim }
    }
}
