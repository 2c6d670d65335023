//! Sources that lie, are damaged or mean harm: a clear error, no panic, a destination that stays as it was.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod fuzz;

use std::fs;
use std::path::{Path, PathBuf};

use common::Quiet;
use gpu_node::model::ModelFolder;
use gpu_node::model::import::{ImportError, import};
use serde_json::{Value, json};

fn source(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../test/vectors/families").join(family)
}

/// A copy of a family's folder that a test may spoil.
struct Spoiled {
    dir: tempfile::TempDir,
}

impl Spoiled {
    fn of(family: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("source");
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(source(family)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("source").join(name)
    }

    fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut json: Value = serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap();
        edit(&mut json);
        fs::write(self.path(name), json.to_string()).unwrap();
    }

    /// Replaces the safetensors header's JSON; the data stays.
    fn edit_header(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let bytes = fs::read(self.path(name)).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        edit(&mut header);
        let text = header.to_string();
        let mut out = (text.len() as u64).to_le_bytes().to_vec();
        out.extend(text.as_bytes());
        out.extend(&bytes[8 + length..]);
        fs::write(self.path(name), out).unwrap();
    }

    fn import(&self) -> Result<(), ImportError> {
        let result = import(&self.dir.path().join("source"), &self.dir.path().join("dest"), None, &Quiet).map(drop);
        if result.is_err() {
            let left: Vec<_> = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, ["source"], "an import that failed leaves nothing");
        }
        result
    }

    fn error(&self) -> String {
        self.import().unwrap_err().to_string()
    }
}

#[test]
fn weights_that_are_no_numbers_are_named_by_tensor_and_place() {
    for (family, file, value, named) in [
        ("smollm", "model.safetensors", f32::NAN.to_le_bytes().to_vec(), "NaN"),
        ("mistral", "model.safetensors", vec![0x80, 0xFF], "-inf"),
    ] {
        let spoiled = Spoiled::of(family);
        let mut bytes = fs::read(spoiled.path(file)).unwrap();
        let at = bytes.len() - 4096;
        bytes[at..at + value.len()].copy_from_slice(&value);
        fs::write(spoiled.path(file), bytes).unwrap();
        let error = spoiled.error();
        assert!(error.contains("tensor model.") && error.contains(named), "{error}");
    }
}

#[test]
fn missing_extra_misshapen_and_foreign_tensors_are_named() {
    let name = "model.layers.0.mlp.up_proj.weight";
    type Edit = fn(&mut Value, &str);
    let cases: [(Edit, &str); 3] = [
        (
            |header, name| {
                let tensor = header.as_object_mut().unwrap().remove(name).unwrap();
                header["score.weight"] = tensor;
            },
            "is missing",
        ),
        (|header, name| header[name]["shape"] = json!([32, 128]), "shape [32, 128]"),
        (|header, name| header[name]["dtype"] = json!("I32"), "I32"),
    ];
    for (edit, named) in cases {
        let spoiled = Spoiled::of("smollm");
        spoiled.edit_header("model.safetensors", |header| edit(header, name));
        let error = spoiled.error();
        assert!(error.contains(name) && error.contains(named), "{error}");
    }
    let spoiled = Spoiled::of("qwen2");
    spoiled.edit_json("config.json", |config| config["model_type"] = json!("llama"));
    assert!(spoiled.error().contains("self_attn.k_proj.bias belongs to no part"), "biases are not left out");
}

#[test]
fn a_second_copy_of_tied_embeddings_must_be_a_copy() {
    let spoiled = Spoiled::of("mistral");
    spoiled.edit_json("config.json", |config| config["tie_word_embeddings"] = json!(true));
    assert!(matches!(spoiled.import(), Err(ImportError::NotTied)));
}

#[test]
fn lying_offsets_lengths_and_indexes_are_refused() {
    let spoiled = Spoiled::of("smollm");
    spoiled.edit_header("model.safetensors", |header| header["model.norm.weight"]["data_offsets"] = json!([0, u64::MAX]));
    assert!(matches!(spoiled.import(), Err(ImportError::Safetensors { .. })));

    let spoiled = Spoiled::of("smollm");
    fs::write(spoiled.path("model.safetensors"), u64::MAX.to_le_bytes()).unwrap();
    assert!(matches!(spoiled.import(), Err(ImportError::Safetensors { .. })));
    fs::write(spoiled.path("model.safetensors"), []).unwrap();
    assert!(spoiled.import().is_err());

    for (map, named) in [
        (json!({"a": "../../etc/passwd"}), "../../etc/passwd"),
        (json!({"a": "/etc/passwd"}), "/etc/passwd"),
        (json!({"a": 7}), "a has no file"),
        (json!({}), "no file"),
        (json!([]), "weight_map"),
        (json!({"a": "model-00009-of-00009.safetensors"}), "model-00009"),
    ] {
        let spoiled = Spoiled::of("llama3");
        spoiled.edit_json("model.safetensors.index.json", |index| index["weight_map"] = map);
        let error = spoiled.error();
        assert!(error.contains(named), "{error}");
    }
    // The same tensor in two shards.
    let spoiled = Spoiled::of("llama3");
    let shard = "model-00001-of-00002.safetensors";
    fs::copy(spoiled.path(shard), spoiled.path("again.safetensors")).unwrap();
    spoiled.edit_json("model.safetensors.index.json", |index| index["weight_map"]["again"] = json!("again.safetensors"));
    assert!(spoiled.error().contains("in another file too"));
}

#[test]
fn tokens_beyond_the_vocabulary_are_refused() {
    let spoiled = Spoiled::of("smollm");
    spoiled.edit_json("tokenizer.json", |tokenizer| tokenizer["model"]["vocab"]["a"] = json!(4_000_000_000u32));
    let error = spoiled.error();
    assert!(error.contains("4000000001") && error.contains("260"), "{error}");

    let spoiled = Spoiled::of("smollm");
    spoiled.edit_json("generation_config.json", |config| config["eos_token_id"] = json!([258, 70_000]));
    assert!(spoiled.error().contains("70000"));

    // A folder that was imported whole and exchanged afterwards is refused by the node.
    let good = Spoiled::of("smollm");
    good.import().unwrap();
    let tokenizer = good.dir.path().join("dest/tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&tokenizer).unwrap()).unwrap();
    json["model"]["vocab"]["a"] = json!(300);
    fs::write(&tokenizer, json.to_string()).unwrap();
    assert!(ModelFolder::open(&good.dir.path().join("dest"), 1, &|_| ()).is_err());
}

#[test]
fn templates_that_loop_recurse_grow_or_refuse_are_refused_at_import() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let grown = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}";
    for template in [
        endless,
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in range(5000) %}{{ 'x' * 1000 }}{% endfor %}",
        grown,
        "{{ 'x' * 99999999999 }}",
        "{{ range(99999999999) | list | length }}",
        "{{ '%099999999999d' | format(1) }}",
        "{{ raise_exception('not today') }}",
        "{% for %}",
    ] {
        let spoiled = Spoiled::of("smollm");
        fs::write(spoiled.path("chat_template.jinja"), template).unwrap();
        let result = spoiled.import();
        assert!(matches!(result, Err(ImportError::Prompt(_))), "{template}: {result:?}");
    }
    let spoiled = Spoiled::of("smollm");
    fs::remove_file(spoiled.path("chat_template.jinja")).unwrap();
    assert!(spoiled.error().contains("chat template"));
}

#[test]
fn a_template_in_either_file_of_its_own_goes_before_the_field() {
    let rendered = |spoiled: &Spoiled| {
        spoiled.import().unwrap();
        let folder = ModelFolder::open(&spoiled.dir.path().join("dest"), 1, &|_| ()).unwrap();
        folder.prompter.decode(&folder.prompter.render(&[prompt::Message::new("user", "x")]).unwrap()).unwrap()
    };
    let spoiled = Spoiled::of("smollm");
    spoiled.edit_json("tokenizer_config.json", |config| config["chat_template"] = json!("field"));
    fs::write(spoiled.path("chat_template.jinja"), "jinja").unwrap();
    assert_eq!(rendered(&spoiled), "jinja");

    let spoiled = Spoiled::of("smollm");
    spoiled.edit_json("tokenizer_config.json", |config| config["chat_template"] = json!("field"));
    fs::remove_file(spoiled.path("chat_template.jinja")).unwrap();
    fs::write(spoiled.path("chat_template.json"), json!({"chat_template": "json"}).to_string()).unwrap();
    assert_eq!(rendered(&spoiled), "json");
    fs::remove_dir_all(spoiled.dir.path().join("dest")).unwrap();
    fs::remove_file(spoiled.path("chat_template.json")).unwrap();
    assert_eq!(rendered(&spoiled), "field");
}

#[test]
fn files_that_are_not_there_are_named_with_a_remedy() {
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        let spoiled = Spoiled::of("smollm");
        fs::remove_file(spoiled.path(name)).unwrap();
        assert!(spoiled.error().contains(name), "{name}");
    }
    let spoiled = Spoiled::of("smollm");
    spoiled.import().unwrap();
    let again = import(&spoiled.dir.path().join("dest"), &spoiled.dir.path().join("other"), None, &Quiet);
    assert!(matches!(again, Err(ImportError::SourceIsImported { .. })));
}
