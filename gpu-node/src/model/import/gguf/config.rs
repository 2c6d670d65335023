//! Metadata of a GGUF file → the decoder's configuration.

use super::Source;
use crate::model::config::{ConfigError, DecoderConfig, RopeScaling};
use crate::model::gguf::Value;
use crate::model::import::ImportError;

/// llama.cpp's default.
const DEFAULT_ROPE_THETA: f64 = 10_000.0;
/// Factors that would change every answer and that these architectures do not have.
const FOREIGN: [&str; 6] =
    ["attention.scale", "attention.clamp_kqv", "attention.max_alibi_bias", "logit_scale", "embedding_scale", "residual_scale"];
/// Llama 3.1's own constants: the files carry its factors but not what they were computed from.
const LLAMA3_LOW: f64 = 1.0;
const LLAMA3_HIGH: f64 = 4.0;
const LLAMA3_CONTEXT: f64 = 8_192.0;
/// The factors are f32 that were computed in f32.
const FACTOR_TOLERANCE: f32 = 1e-4;

pub(super) fn decoder_config(source: &Source) -> Result<DecoderConfig, ImportError> {
    let refused = |error| ImportError::Config { path: source.path.to_owned(), source: error };
    let unsupported = |feature: String| refused(ConfigError::Unsupported { feature });
    for name in FOREIGN {
        if let Some(value) = source.gguf.value(&source.key(name)) {
            return Err(unsupported(format!("{} = {value:?}", source.key(name))));
        }
    }
    if let Some(experts) = source.optional_number("expert_count")?.filter(|n| *n > 0) {
        return Err(unsupported(format!("a mixture of {experts} experts")));
    }

    let (dim, n_heads) = (source.number("embedding_length")?, source.number("attention.head_count")?);
    let whole = n_heads > 0 && dim.is_multiple_of(n_heads);
    let head_dim = match source.optional_number("attention.key_length")? {
        Some(length) => length,
        None if whole => dim / n_heads,
        None => return Err(refused(ConfigError::Missing { field: "attention.key_length" })),
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        if let Some(length) = source.optional_number(name)?.filter(|length| *length != head_dim) {
            return Err(unsupported(format!("{} = {length} beside heads of {head_dim}", source.key(name))));
        }
    }
    let window = source.optional_number("attention.sliding_window")?.filter(|window| *window > 0);
    if window.is_some() && source.architecture != "llama" {
        return Err(unsupported(source.key("attention.sliding_window")));
    }
    let embedding = source.gguf.tensor("token_embd.weight").map_err(|e| source.error(e))?;
    let vocab_size = *embedding.shape.get(1).unwrap_or(&0);
    let norm_key = source.key("attention.layer_norm_rms_epsilon");
    let rope_theta = source.optional_float("rope.freq_base")?.unwrap_or(DEFAULT_ROPE_THETA);

    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let config = DecoderConfig {
        n_layers: size(source.number("block_count")?),
        dim: size(dim),
        hidden_dim: size(source.number("feed_forward_length")?),
        n_heads: size(n_heads),
        n_kv_heads: size(source.optional_number("attention.head_count_kv")?.unwrap_or(n_heads)),
        head_dim: size(head_dim),
        vocab_size: size(vocab_size),
        context_tokens: size(source.number("context_length")?),
        rope_theta,
        norm_eps: source.gguf.float(&norm_key).map_err(|e| source.error(e))? as f32,
        tied_embeddings: source.gguf.tensor("output.weight").is_err(),
        rope_scaling: RopeScaling::None,
        qkv_bias: source.architecture == "qwen2",
        qk_norm: source.architecture == "qwen3",
        sliding_window: window.map(size),
    };
    // The bounds hold before anything is computed from the numbers.
    let config = config.checked().map_err(refused)?;
    let rope_scaling = rope_scaling(source, &config)?;
    DecoderConfig { rope_scaling, ..config }.checked().map_err(refused)
}

fn rope_scaling(source: &Source, config: &DecoderConfig) -> Result<RopeScaling, ImportError> {
    let refused = |error| ImportError::Config { path: source.path.to_owned(), source: error };
    let kind_key = source.key("rope.scaling.type");
    let kind = match source.gguf.value(&kind_key) {
        None => "none",
        Some(Value::Text(kind)) => kind,
        Some(other) => return Err(ImportError::Inconsistent { what: "rope.scaling.type", value: format!("{other:?}") }),
    };
    let factor = match source.optional_float("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => source.optional_float("rope.scale_linear")?,
    };
    let from_metadata = match (kind, factor) {
        ("none", None) => RopeScaling::None,
        ("none", Some(1.0)) => RopeScaling::None,
        // Files older than the type have the factor alone.
        ("none", Some(factor)) if source.gguf.value(&kind_key).is_none() => RopeScaling::Linear { factor },
        ("none", Some(_)) => RopeScaling::None,
        ("linear", Some(factor)) => RopeScaling::Linear { factor },
        ("linear", None) => return Err(refused(ConfigError::Missing { field: "rope.scaling.factor" })),
        (other, _) => return Err(refused(ConfigError::Unsupported { feature: format!("{kind_key} {other:?}") })),
    };
    match (factors(source, config)?, from_metadata) {
        (None, scaling) => Ok(scaling),
        (Some(factors), RopeScaling::None) => llama3(source, config, &factors),
        (Some(_), _) => Err(refused(ConfigError::Unsupported { feature: "rope_freqs.weight beside linear scaling".to_owned() })),
    }
}

/// `rope_freqs.weight`: by how much each pair's frequency is divided.
fn factors(source: &Source, config: &DecoderConfig) -> Result<Option<Vec<f32>>, ImportError> {
    let Ok(entry) = source.gguf.tensor("rope_freqs.weight") else { return Ok(None) };
    let expected = vec![config.head_dim as u64 / 2];
    if entry.shape != expected {
        return Err(ImportError::Shape { name: "rope_freqs.weight".to_owned(), found: entry.shape.clone(), expected });
    }
    let mut factors = Vec::new();
    entry.kind.dequantize(source.gguf.data(entry), &mut factors);
    Ok(Some(factors))
}

/// Llama 3's scaling with the constants that reproduce the factors; others are refused, not approximated.
fn llama3(source: &Source, config: &DecoderConfig, factors: &[f32]) -> Result<RopeScaling, ImportError> {
    let factor = factors.iter().copied().fold(f32::NAN, f32::max);
    let context = source.optional_number("rope.scaling.original_context_length")?.map_or(LLAMA3_CONTEXT, |n| n as f64);
    let scaling = RopeScaling::Llama3 {
        factor: factor.into(),
        low_freq_factor: LLAMA3_LOW,
        high_freq_factor: LLAMA3_HIGH,
        original_context_tokens: context,
    };
    for (pair, found) in factors.iter().enumerate() {
        let frequency = config.rope_theta.powf(-2.0 * pair as f64 / config.head_dim as f64);
        let expected = (frequency / scaling.stretch(frequency)) as f32;
        // A comparison with NaN is false, and so refused.
        let near = (found - expected).abs() <= FACTOR_TOLERANCE * expected;
        if !near {
            return Err(ImportError::RopeFactors { pair, found: *found, expected });
        }
    }
    Ok(scaling)
}
