//! The forward pass of every family, written out in f64: slow, short, and sharing no code with the engine.

use gpu_node::model::{DecoderConfig, Weights};

type Rows = Vec<Vec<f64>>;

/// Logits of every position of `tokens`.
pub fn logits(config: &DecoderConfig, weights: &Weights, tokens: &[u32]) -> Rows {
    let model = Model { config, weights };
    let embedding = model.matrix("model.embed_tokens.weight", config.vocab_size, config.dim);
    let mut states: Rows = tokens.iter().map(|token| embedding[*token as usize].clone()).collect();
    for layer in 0..config.n_layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let attended = model.attention(layer, &model.normed(&states, &name("input_layernorm.weight")));
        add(&mut states, &attended);
        let normed = model.normed(&states, &name("post_attention_layernorm.weight"));
        let gate = product(&model.matrix(&name("mlp.gate_proj.weight"), config.hidden_dim, config.dim), &normed);
        let up = product(&model.matrix(&name("mlp.up_proj.weight"), config.hidden_dim, config.dim), &normed);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let gated: Rows = gate.iter().zip(&up).map(|(g, u)| g.iter().zip(u).map(|(g, u)| silu(*g) * u).collect()).collect();
        add(&mut states, &product(&model.matrix(&name("mlp.down_proj.weight"), config.dim, config.hidden_dim), &gated));
    }
    let normed = model.normed(&states, "model.norm.weight");
    if config.tied_embeddings {
        product(&embedding, &normed)
    } else {
        product(&model.matrix("lm_head.weight", config.vocab_size, config.dim), &normed)
    }
}

struct Model<'a> {
    config: &'a DecoderConfig,
    weights: &'a Weights,
}

impl Model<'_> {
    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Rows {
        let stored = self.weights.matrix(name, rows, columns).unwrap();
        stored.panels().to_f32().chunks(columns).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect()
    }

    fn vector(&self, name: &str, length: usize) -> Vec<f64> {
        self.weights.vector(name, length).unwrap().into_iter().map(f64::from).collect()
    }

    fn normed(&self, states: &Rows, gain: &str) -> Rows {
        let gain = self.vector(gain, self.config.dim);
        states.iter().map(|row| self.norm(row, &gain)).collect()
    }

    fn norm(&self, row: &[f64], gain: &[f64]) -> Vec<f64> {
        let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
        let factor = 1.0 / (mean + f64::from(self.config.norm_eps)).sqrt();
        row.iter().zip(gain).map(|(x, g)| x * factor * g).collect()
    }

    /// Heads of one projection, rotated when it is of queries or keys: `[position][head][element]`.
    fn heads(&self, layer: usize, projection: &str, count: usize, normed: &Rows) -> Vec<Rows> {
        let (config, rotated) = (self.config, projection != "v");
        let name = |part: &str| format!("model.layers.{layer}.self_attn.{projection}_{part}");
        let mut rows = product(&self.matrix(&name("proj.weight"), count * config.head_dim, config.dim), normed);
        if config.qkv_bias {
            let bias = self.vector(&name("proj.bias"), count * config.head_dim);
            rows.iter_mut().for_each(|row| row.iter_mut().zip(&bias).for_each(|(x, b)| *x += b));
        }
        let gain = (config.qk_norm && rotated).then(|| self.vector(&name("norm.weight"), config.head_dim));
        let head = |position: usize, head: &[f64]| {
            let head = gain.as_ref().map_or(head.to_vec(), |gain| self.norm(head, gain));
            if rotated { self.rotate(position, &head) } else { head }
        };
        rows.iter().enumerate().map(|(position, row)| row.chunks(config.head_dim).map(|h| head(position, h)).collect()).collect()
    }

    fn rotate(&self, position: usize, head: &[f64]) -> Vec<f64> {
        let half = head.len() / 2;
        let mut out = head.to_vec();
        for pair in 0..half {
            let frequency = self.config.rope_theta.powf(-(pair as f64) / half as f64);
            let (sin, cos) = (position as f64 * self.config.rope_scaling.stretch(frequency)).sin_cos();
            out[pair] = head[pair] * cos - head[pair + half] * sin;
            out[pair + half] = head[pair + half] * cos + head[pair] * sin;
        }
        out
    }

    fn attention(&self, layer: usize, normed: &Rows) -> Rows {
        let config = self.config;
        let q = self.heads(layer, "q", config.n_heads, normed);
        let k = self.heads(layer, "k", config.n_kv_heads, normed);
        let v = self.heads(layer, "v", config.n_kv_heads, normed);
        let mut out = Rows::new();
        for (position, queries) in q.iter().enumerate() {
            let first = config.sliding_window.map_or(0, |window| (position + 1).saturating_sub(window));
            let mut row = Vec::new();
            for (head, query) in queries.iter().enumerate() {
                let kv = head / (config.n_heads / config.n_kv_heads);
                let scores: Vec<f64> = (first..=position).map(|at| dot(query, &k[at][kv]) / (config.head_dim as f64).sqrt()).collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                let total: f64 = weights.iter().sum();
                let weighted = |element: usize| weights.iter().zip(first..).map(|(w, at)| w / total * v[at][kv][element]).sum::<f64>();
                row.extend((0..config.head_dim).map(weighted));
            }
            out.push(row);
        }
        let name = format!("model.layers.{layer}.self_attn.o_proj.weight");
        product(&self.matrix(&name, config.dim, config.q_dim()), &out)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn product(matrix: &Rows, states: &Rows) -> Rows {
    states.iter().map(|state| matrix.iter().map(|row| dot(row, state)).collect()).collect()
}

fn add(states: &mut Rows, more: &Rows) {
    states.iter_mut().zip(more).for_each(|(row, more)| row.iter_mut().zip(more).for_each(|(x, y)| *x += y));
}
