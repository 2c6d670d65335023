//! Mutations of every file of a small model.

use std::fs;

use gpu_node::engine::{Engine, EngineConfig};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::Spoiled;

/// What was imported either starts or says why not.
fn import_and_start(spoiled: &Spoiled) {
    if spoiled.import().is_ok() {
        let _ = Engine::start(&spoiled.dir.path().join("dest"), EngineConfig { threads: 1, ..EngineConfig::default() });
    }
}

fn damaged(bytes: &mut Vec<u8>, at: usize, noise: &[u8], cut: bool) {
    let at = at % bytes.len().max(1);
    for (byte, noise) in bytes.iter_mut().skip(at).zip(noise) {
        *byte = *noise;
    }
    if cut {
        bytes.truncate(at);
    }
}

/// Places of all values inside, as JSON pointers.
fn places(json: &Value, at: String, out: &mut Vec<String>) {
    match json {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| places(value, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), out))
        }
        Value::Array(list) => list.iter().enumerate().for_each(|(index, value)| places(value, format!("{at}/{index}"), out)),
        _ => {}
    }
    out.push(at);
}

fn any_json() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u64..300).prop_map(Value::from),
        "[ -~é]{0,6}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([["a", "b"], "c d"])),
        prop::sample::select(vec![
            "BPE",
            "Unigram",
            "WordPiece",
            "WordLevel",
            "Metaspace",
            "ByteFallback",
            "Sequence",
            "Replace",
            "Strip",
            "Split",
            "Precompiled",
            "NFC",
            "Template",
            "TemplateProcessing",
            "CTC",
            "Fuse"
        ])
        .prop_map(|kind| json!({"type": kind})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn tokenizers_with_any_value_exchanged_never_panic(place in any::<prop::sample::Index>(), shallow in any::<bool>(), value in any_json()) {
        let spoiled = Spoiled::of("smollm");
        spoiled.edit_json("tokenizer.json", |tokenizer| {
            let mut all = Vec::new();
            places(tokenizer, String::new(), &mut all);
            // Half of the time outside the vocabulary, which is most of the places and the least of the rules.
            all.retain(|at| !shallow || !at.starts_with("/model/vocab/"));
            *tokenizer.pointer_mut(&all[place.index(all.len())]).unwrap() = value;
        });
        import_and_start(&spoiled);
    }
}

fn start_with_damaged(name: &str, at: usize, noise: &[u8], cut: bool) {
    let spoiled = Spoiled::of("smollm");
    let mut bytes = fs::read(spoiled.path(name)).unwrap();
    damaged(&mut bytes, at, noise, cut);
    fs::write(spoiled.path(name), bytes).unwrap();
    import_and_start(&spoiled);
}

#[test]
fn a_tokenizer_with_a_zero_byte_where_one_panicked_does_not() {
    start_with_damaged("tokenizer.json", 18_376_006_378_272_841_095, &[0], false);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn damaged_small_files_never_panic(
        name in prop::sample::select(vec!["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]),
        at in any::<usize>(), noise in prop::collection::vec(any::<u8>(), 1..6), cut in prop::bool::weighted(0.2),
    ) {
        start_with_damaged(name, at, &noise, cut);
    }

    #[test]
    fn damaged_safetensors_headers_never_panic(at in 0usize..1_600, noise in prop::collection::vec(any::<u8>(), 1..6), cut in prop::bool::weighted(0.2)) {
        let spoiled = Spoiled::of("smollm");
        let mut bytes = fs::read(spoiled.path("model.safetensors")).unwrap();
        damaged(&mut bytes, at, &noise, cut);
        fs::write(spoiled.path("model.safetensors"), bytes).unwrap();
        import_and_start(&spoiled);
    }

    #[test]
    fn damaged_indexes_never_panic(at in any::<usize>(), noise in prop::collection::vec(any::<u8>(), 1..6), cut in prop::bool::weighted(0.2)) {
        let spoiled = Spoiled::of("llama3");
        let name = "model.safetensors.index.json";
        let mut bytes = fs::read(spoiled.path(name)).unwrap();
        damaged(&mut bytes, at, &noise, cut);
        fs::write(spoiled.path(name), bytes).unwrap();
        import_and_start(&spoiled);
    }

    #[test]
    fn numbers_of_a_configuration_may_be_anything(
        field in prop::sample::select(vec!["num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
            "head_dim", "vocab_size", "max_position_embeddings", "rope_theta", "rms_norm_eps", "sliding_window", "bos_token_id", "eos_token_id"]),
        value in prop_oneof![any::<i64>().prop_map(Value::from), any::<f64>().prop_map(Value::from), (0u32..10_000).prop_map(Value::from), Just(Value::Null)],
    ) {
        let spoiled = Spoiled::of("mistral");
        spoiled.edit_json("config.json", |config| config[field] = value);
        import_and_start(&spoiled);
    }

    #[test]
    fn damaged_stored_weights_never_panic_at_start(at in any::<usize>(), noise in prop::collection::vec(any::<u8>(), 1..9), cut in any::<bool>()) {
        let spoiled = Spoiled::of("smollm");
        spoiled.import().unwrap();
        let dest = spoiled.dir.path().join("dest");
        let mut bytes = fs::read(dest.join("model.safetensors")).unwrap();
        damaged(&mut bytes, at, &noise, cut);
        fs::write(dest.join("model.safetensors"), bytes).unwrap();
        fs::remove_file(dest.join("parallelix.json")).unwrap(); // which would find it first
        let _ = Engine::start(&dest, EngineConfig { threads: 1, ..EngineConfig::default() });
    }
}
