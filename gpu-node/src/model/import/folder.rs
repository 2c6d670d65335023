//! A Hugging Face folder: `config.json`, weights whole or in shards, tokenizer files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use alloy::primitives::B256;
use memmap2::Mmap;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::quantize::SourceTensor;
use super::{Import, ImportError, Progress, map_source, write_json};
use crate::model::config::DecoderConfig;
use crate::model::gguf::QuantType;
use crate::model::header;
use crate::model::manifest::MANIFEST_FILE;
use crate::model::tensors::{TensorShape, TensorSpec, decoder_tensors};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Files beside the weights that are read, those that must be there first.
const REQUIRED: [(&str, &str); 3] = [
    ("config.json", "name the folder of a model as Hugging Face publishes it"),
    ("tokenizer.json", "save it with `AutoTokenizer.from_pretrained(…).save_pretrained(…)`, which writes one"),
    ("tokenizer_config.json", "name the folder of a model as Hugging Face publishes it"),
];
const OPTIONAL: [&str; 3] = ["generation_config.json", "chat_template.jinja", "chat_template.json"];
/// Longest of the JSON files but the tokenizer; an index of 200 shards takes a few hundred KiB.
const MAX_JSON_BYTES: u64 = 16 << 20;
/// Most shards; the largest published models have about 200.
const MAX_SHARDS: usize = 4_096;

/// Every file of the folder that an import reads.
pub(super) fn source_files(dir: &Path) -> Result<Vec<PathBuf>, ImportError> {
    if dir.join(MANIFEST_FILE).exists() {
        return Err(ImportError::SourceIsImported { path: dir.to_owned() });
    }
    let mut files = Vec::new();
    for (name, remedy) in REQUIRED {
        let path = dir.join(name);
        if !path.is_file() {
            return Err(ImportError::MissingFile { path: dir.to_owned(), name, remedy });
        }
        files.push(path);
    }
    files.extend(OPTIONAL.iter().map(|name| dir.join(name)).filter(|path| path.is_file()));
    if !dir.join(WEIGHTS).is_file() && dir.join(INDEX).is_file() {
        files.push(dir.join(INDEX));
    }
    files.extend(weight_files(dir)?);
    Ok(files)
}

/// `model.safetensors`, or the shards that its index names.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, ImportError> {
    if dir.join(WEIGHTS).is_file() {
        return Ok(vec![dir.join(WEIGHTS)]);
    }
    let path = dir.join(INDEX);
    if !path.is_file() {
        let remedy = "weights must be safetensors, whole or in shards with model.safetensors.index.json";
        return Err(ImportError::MissingFile { path: dir.to_owned(), name: WEIGHTS, remedy });
    }
    let index: Value = read_json(&path)?;
    Ok(shard_names(&index).map_err(|reason| ImportError::Index { path, reason })?.iter().map(|name| dir.join(name)).collect())
}

/// Names of the files in an index. They stand beside it: a path that leads elsewhere is refused.
pub(in crate::model) fn shard_names(index: &Value) -> Result<BTreeSet<String>, String> {
    let map = index.get("weight_map").and_then(Value::as_object).ok_or("it has no weight_map")?;
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        let name = file.as_str().ok_or_else(|| format!("tensor {tensor} has no file"))?;
        if !is_plain_name(name) {
            return Err(format!("tensor {tensor} is in {name:?}, which is no plain file name"));
        }
        names.insert(name.to_owned());
    }
    match names.len() {
        0 => Err("it names no file".to_owned()),
        1..=MAX_SHARDS => Ok(names),
        count => Err(format!("it names {count} files, at most {MAX_SHARDS} are possible")),
    }
}

/// A file name without folders, of letters, digits, `.`, `_` and `-`, not hidden.
pub(in crate::model) fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

pub(super) fn write_folder(import: &Import, dir: &Path, progress: &dyn Progress) -> Result<B256, ImportError> {
    let path = import.source.join("config.json");
    let raw: Value = read_json(&path)?;
    let in_config = |source| ImportError::Config { path: path.clone(), source };
    let config = DecoderConfig::parse(raw.to_string().as_bytes()).map_err(in_config)?;

    let files = weight_files(import.source)?;
    let shards = files.into_iter().map(Shard::open).collect::<Result<Vec<_>, _>>()?;
    let mut stored = stored_tensors(&shards)?;
    let tensors = decoder_tensors(&config).into_iter().map(|spec| take(&mut stored, spec)).collect::<Result<Vec<_>, _>>()?;
    refuse_rest(&stored, &config, &tensors)?;

    write_small_files(import.source, dir, &raw, &config)?;
    import.write_checked(&config, &tensors, dir, progress)
}

struct Shard {
    path: PathBuf,
    map: Mmap,
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self, ImportError> {
        Ok(Self { map: map_source(&path)?, path })
    }
}

struct Stored<'a> {
    dtype: Dtype,
    shape: Vec<u64>,
    bytes: &'a [u8],
}

/// Every tensor of all files by name.
fn stored_tensors(shards: &[Shard]) -> Result<BTreeMap<String, Stored<'_>>, ImportError> {
    let mut all = BTreeMap::new();
    for shard in shards {
        let bad = |reason: String| ImportError::Safetensors { path: shard.path.clone(), reason };
        let parsed = header::parse(&shard.map).map_err(bad)?;
        for (name, view) in parsed.iter() {
            let shape = view.shape().iter().map(|n| *n as u64).collect();
            if all.insert(name.to_owned(), Stored { dtype: view.dtype(), shape, bytes: view.data() }).is_some() {
                return Err(bad(format!("tensor {name} stands in another file too")));
            }
        }
    }
    Ok(all)
}

/// Takes one tensor out of what is there, when it has the shape and a storage type that is imported.
fn take<'a>(stored: &mut BTreeMap<String, Stored<'a>>, spec: TensorSpec) -> Result<SourceTensor<'a>, ImportError> {
    let tensor = stored.remove(&spec.name).ok_or_else(|| ImportError::MissingTensor { name: spec.name.clone() })?;
    let expected = match spec.shape {
        TensorShape::Matrix { rows, columns } => vec![rows as u64, columns as u64],
        TensorShape::Vector { length } => vec![length as u64],
    };
    if tensor.shape != expected {
        return Err(ImportError::Shape { name: spec.name, found: tensor.shape, expected });
    }
    let kind = match tensor.dtype {
        Dtype::F32 => QuantType::F32,
        Dtype::F16 => QuantType::F16,
        Dtype::BF16 => QuantType::Bf16,
        other => return Err(ImportError::Storage { name: spec.name, found: format!("{other:?}"), expected: "F32, F16 and BF16" }),
    };
    Ok(SourceTensor { spec, kind, bytes: tensor.bytes, interleaved: None })
}

/// What was not taken: rotation tables of old files mean nothing, a second copy of tied embeddings must be a copy.
fn refuse_rest(stored: &BTreeMap<String, Stored>, config: &DecoderConfig, taken: &[SourceTensor]) -> Result<(), ImportError> {
    for (name, tensor) in stored {
        if name.ends_with(".rotary_emb.inv_freq") {
            continue;
        }
        if name != "lm_head.weight" || !config.tied_embeddings {
            return Err(ImportError::ExtraTensor { name: name.clone() });
        }
        if taken.first().is_none_or(|embedding| embedding.bytes != tensor.bytes) {
            return Err(ImportError::NotTied);
        }
    }
    Ok(())
}

fn write_small_files(source: &Path, dir: &Path, raw_config: &Value, config: &DecoderConfig) -> Result<(), ImportError> {
    let mut written = config.to_json();
    for key in ["bos_token_id", "eos_token_id"] {
        if let Some(id) = raw_config.get(key) {
            written[key] = id.clone();
        }
    }
    write_json(dir, "config.json", &written)?;
    for name in ["tokenizer.json", "generation_config.json"] {
        let from = source.join(name);
        if from.is_file() {
            fs::copy(&from, dir.join(name)).map_err(ImportError::io(&from))?;
        }
    }
    let mut tokenizer_config: Value = read_json(&source.join("tokenizer_config.json"))?;
    if let Some(template) = separate_template(source)? {
        tokenizer_config["chat_template"] = json!(template);
    }
    write_json(dir, "tokenizer_config.json", &tokenizer_config)
}

/// The chat template out of a file of its own, which goes before the one in `tokenizer_config.json`, as in `transformers`.
fn separate_template(source: &Path) -> Result<Option<String>, ImportError> {
    let path = source.join("chat_template.jinja");
    if path.is_file() {
        let bytes = read_bounded(&path)?;
        return match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(error) => Err(ImportError::Io { path, source: std::io::Error::other(error) }),
        };
    }
    let path = source.join("chat_template.json");
    if !path.is_file() {
        return Ok(None);
    }
    let json: Value = read_json(&path)?;
    Ok(json.get("chat_template").and_then(Value::as_str).map(str::to_owned))
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, ImportError> {
    let bytes = fs::metadata(path).map_err(ImportError::io(path))?.len();
    if bytes > MAX_JSON_BYTES {
        return Err(ImportError::TooLong { path: path.to_owned(), bytes, most: MAX_JSON_BYTES });
    }
    fs::read(path).map_err(ImportError::io(path))
}

fn read_json(path: &Path) -> Result<Value, ImportError> {
    let not_json = |e: serde_json::Error| ImportError::Io { path: path.to_owned(), source: e.into() };
    let value: Value = serde_json::from_slice(&read_bounded(path)?).map_err(not_json)?;
    if !value.is_object() {
        return Err(ImportError::Io { path: path.to_owned(), source: std::io::Error::other("it is no JSON object") });
    }
    Ok(value)
}
