use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn smollm() -> Value {
    json!({"model_type": "llama", "num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
           "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192, "rope_theta": 100000.0,
           "rope_scaling": null, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "hidden_act": "silu"})
}

/// The fields as their authors publish them.
fn qwen2_5() -> Value {
    json!({"model_type": "qwen2", "num_hidden_layers": 24, "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14,
           "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768, "rope_theta": 1000000.0,
           "max_window_layers": 21, "sliding_window": 32768, "use_sliding_window": false, "rms_norm_eps": 1e-6,
           "tie_word_embeddings": true, "hidden_act": "silu"})
}

fn qwen3() -> Value {
    json!({"model_type": "qwen3", "num_hidden_layers": 28, "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16,
           "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960, "rope_theta": 1000000,
           "rope_scaling": null, "sliding_window": null, "use_sliding_window": false, "max_window_layers": 28, "rms_norm_eps": 1e-6,
           "attention_bias": false, "tie_word_embeddings": true, "hidden_act": "silu"})
}

fn mistral() -> Value {
    json!({"model_type": "mistral", "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 32768, "rope_theta": 10000.0,
           "sliding_window": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "hidden_act": "silu"})
}

fn llama3_rope() -> Value {
    json!({"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"})
}

fn parse(config: &Value) -> Result<DecoderConfig, ConfigError> {
    DecoderConfig::parse(config.to_string().as_bytes())
}

fn with(mut config: Value, field: &str, value: Value) -> Value {
    config[field] = value;
    config
}

#[test]
fn published_configs_of_each_family_are_read() {
    let smollm = parse(&smollm()).unwrap();
    assert_eq!((smollm.q_dim(), smollm.kv_dim(), smollm.head_dim), (576, 192, 64));
    assert!(smollm.tied_embeddings && !smollm.qkv_bias && !smollm.qk_norm && smollm.sliding_window.is_none());

    let qwen2_5 = parse(&qwen2_5()).unwrap();
    assert!(qwen2_5.qkv_bias && !qwen2_5.qk_norm);
    assert_eq!(qwen2_5.sliding_window, None, "use_sliding_window is false");

    let qwen3 = parse(&qwen3()).unwrap();
    assert!(qwen3.qk_norm && !qwen3.qkv_bias);
    assert_eq!((qwen3.q_dim(), qwen3.dim, qwen3.rope_theta), (2048, 1024, 1e6));

    assert_eq!(parse(&mistral()).unwrap().sliding_window, Some(4096));
    assert_eq!(parse(&with(mistral(), "sliding_window", Value::Null)).unwrap().sliding_window, None);
    let mut silent = mistral();
    silent.as_object_mut().unwrap().remove("sliding_window");
    assert_eq!(parse(&silent).unwrap().sliding_window, Some(4096), "transformers' default");
}

#[test]
fn rotation_is_read_in_its_older_and_newer_form() {
    let expected = RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context_tokens: 8192.0 };
    let older = parse(&with(smollm(), "rope_scaling", llama3_rope())).unwrap();
    assert_eq!((older.rope_theta, older.rope_scaling), (100_000.0, expected));

    let mut newer = smollm();
    newer.as_object_mut().unwrap().remove("rope_theta");
    newer["rope_parameters"] = with(llama3_rope(), "rope_theta", json!(500_000.0));
    let newer = parse(&newer).unwrap();
    assert_eq!((newer.rope_theta, newer.rope_scaling), (500_000.0, expected));

    let linear = parse(&with(smollm(), "rope_scaling", json!({"type": "linear", "factor": 2}))).unwrap();
    assert_eq!(linear.rope_scaling, RopeScaling::Linear { factor: 2.0 });
}

#[test]
fn windows_are_for_all_layers_or_none() {
    let with_window = |full: u64| with(with(qwen2_5(), "use_sliding_window", json!(true)), "max_window_layers", json!(full));
    assert_eq!(parse(&with_window(0)).unwrap().sliding_window, Some(32768));
    assert_eq!(parse(&with_window(24)).unwrap().sliding_window, None);
    assert!(parse(&with_window(21)).unwrap_err().to_string().contains("3 of 24 layers"));
}

#[test]
fn absurd_fields_are_named() {
    let cases = [
        ("hidden_size", json!(577)),
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(u64::MAX)),
        ("num_key_value_heads", json!(2)),
        ("num_key_value_heads", json!(0)),
        ("num_attention_heads", json!(0)),
        ("head_dim", json!(48)),
        ("head_dim", json!(512)),
        ("rope_theta", json!(-1.0)),
        ("rms_norm_eps", json!(0.0)),
        ("rms_norm_eps", json!(1e300)),
        ("rope_scaling", json!({"rope_type": "linear", "factor": 0.0})),
        ("high_freq_factor", json!(null)),
    ];
    for (field, value) in cases {
        let config = match field {
            "high_freq_factor" => with(smollm(), "rope_scaling", with(llama3_rope(), field, value.clone())),
            // Without a length of its own, a head's length follows from these two.
            "num_attention_heads" | "hidden_size" => with(with(smollm(), "head_dim", json!(64)), field, value.clone()),
            _ => with(smollm(), field, value.clone()),
        };
        let error = parse(&config).unwrap_err();
        assert!(error.to_string().contains(field), "{field} = {value}: {error}");
    }
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let cases = [
        (smollm(), "model_type", json!("gpt_neox"), "gpt_neox"),
        (smollm(), "rope_scaling", json!({"type": "yarn", "factor": 4.0}), "yarn"),
        (smollm(), "rope_parameters", json!({"rope_type": "longrope"}), "longrope"),
        (smollm(), "hidden_act", json!("gelu"), "gelu"),
        (smollm(), "attention_bias", json!(true), "attention_bias"),
        (qwen3(), "attention_bias", json!(true), "attention_bias"),
        (smollm(), "mlp_bias", json!(true), "mlp_bias"),
        (mistral(), "num_local_experts", json!(8), "8 experts"),
        (smollm(), "partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
        (qwen2_5(), "quantization_config", json!({"quant_method": "gptq"}), "gptq"),
    ];
    for (config, field, value, named) in cases {
        let error = parse(&with(config, field, value)).unwrap_err().to_string();
        assert!(error.contains(named), "{field}: {error}");
    }
}

#[test]
fn long_contexts_turn_low_frequencies_slower_and_keep_high_ones() {
    let scaling = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context_tokens: 8192.0 };
    assert_eq!(scaling.stretch(1.0), 1.0);
    assert_eq!(scaling.stretch(1e-5), 1e-5 / 8.0);
    let between = 2.0 * std::f64::consts::TAU / 8192.0; // two turns: a third of the way
    assert!((scaling.stretch(between) / between - (2.0 / 3.0 / 8.0 + 1.0 / 3.0)).abs() < 1e-12);
    assert_eq!(RopeScaling::Linear { factor: 4.0 }.stretch(1.0), 0.25);
}

proptest! {
    #[test]
    fn written_config_is_read_as_it_was(
        (family, layers, heads, groups) in (0usize..4, 1usize..9, 1usize..5, 1usize..5),
        (dim, head_dim, window, rope) in (1usize..9, 1usize..9, prop::option::of(1usize..9000), 0usize..3),
        (tied, eps) in (any::<bool>(), 1e-9f32..0.1),
    ) {
        let config = DecoderConfig {
            n_layers: layers, dim: dim * 32, hidden_dim: 64, n_heads: heads * groups, n_kv_heads: heads, head_dim: head_dim * 32,
            vocab_size: 300, context_tokens: 512, rope_theta: 12_345.5, norm_eps: eps, tied_embeddings: tied,
            rope_scaling: match rope {
                0 => RopeScaling::None,
                1 => RopeScaling::Linear { factor: 2.5 },
                _ => RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context_tokens: 8192.0 },
            },
            qkv_bias: family == 1, qk_norm: family == 2,
            sliding_window: window,
        };
        prop_assert_eq!(parse(&config.to_json()).unwrap(), config);
    }

    #[test]
    fn noise_and_damaged_configs_never_panic(at in 0usize..400, byte in any::<u8>(), noise in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut config = mistral().to_string().into_bytes();
        if let Some(b) = config.get_mut(at) { *b = byte }
        let _ = DecoderConfig::parse(&config);
        let _ = DecoderConfig::parse(&noise);
    }
}
