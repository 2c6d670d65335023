//! Header, metadata and tensor directory of a GGUF file.

use std::collections::HashMap;

use super::quant::{IMPORTED_TYPES, QuantType};

const MAGIC: &[u8; 4] = b"GGUF";
/// Bounds of a header; real files stay far below them.
const MAX_TENSORS: u64 = 65_536;
const MAX_KEYS: u64 = 65_536;
/// Items of all lists together; the largest vocabularies have 256k tokens with scores, types and twice as many merges.
const MAX_ITEMS: u64 = 1 << 22;
/// Everything before the tensors' data; those vocabularies take about 20 MiB.
const MAX_HEADER_BYTES: usize = 256 << 20;
const MAX_DIMS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;

/// Why a GGUF file was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GgufError {
    #[error("this is not a GGUF file: it begins with {found:?} instead of \"GGUF\"")]
    Magic { found: Vec<u8> },
    #[error("GGUF version {found} is not known; 2 and 3 are")]
    Version { found: u32 },
    #[error("the file ends at byte {length}, {needed} bytes at {offset} were expected; it is truncated or damaged")]
    Truncated { offset: u64, needed: u64, length: u64 },
    #[error("{what} is {value}, at most {most} is possible; the header is damaged")]
    Bound { what: &'static str, value: u64, most: u64 },
    #[error("text in the header is not UTF-8 at byte {offset}")]
    Utf8 { offset: u64 },
    #[error("metadata has a value of unknown type {kind}")]
    ValueType { kind: u32 },
    #[error("{what} {name:?} stands twice in the header")]
    Duplicate { what: &'static str, name: String },
    #[error("tensor {name} has storage type {kind}, which is not imported; {IMPORTED_TYPES} are")]
    Storage { name: String, kind: u32 },
    #[error("tensor {name} has shape {shape:?}, whose rows are no whole number of blocks of {block}")]
    Shape { name: String, shape: Vec<u64>, block: u64 },
    #[error("metadata key {key} is missing")]
    MissingKey { key: String },
    #[error("metadata key {key} is not {expected}")]
    KeyType { key: String, expected: &'static str },
    #[error("tensor {name} is missing")]
    MissingTensor { name: String },
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Array(Vec<Value>),
}

/// A tensor in the directory. `shape` has the fastest dimension first, as GGUF writes it.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorEntry {
    pub shape: Vec<u64>,
    pub kind: QuantType,
    /// From the start of the file; `offset..offset + bytes` lies inside it.
    pub offset: usize,
    pub bytes: usize,
}

/// A parsed header over the file's bytes.
#[derive(Debug)]
pub struct Gguf<'a> {
    bytes: &'a [u8],
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, TensorEntry>,
}

impl<'a> Gguf<'a> {
    /// Parses the header and checks that every tensor lies inside the file.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GgufError> {
        let header = bytes.get(..MAX_HEADER_BYTES).unwrap_or(bytes);
        let mut cursor = Cursor { bytes: header, at: 0, items: 0, file_bytes: bytes.len() as u64 };
        let magic = cursor.take(4)?;
        if magic != MAGIC {
            return Err(GgufError::Magic { found: magic.to_vec() });
        }
        let version = cursor.u32()?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version { found: version });
        }
        let n_tensors = bounded("tensor count", cursor.u64()?, MAX_TENSORS)?;
        let n_keys = bounded("metadata count", cursor.u64()?, MAX_KEYS)?;

        let mut metadata = HashMap::new();
        for _ in 0..n_keys {
            let key = cursor.text()?;
            let kind = cursor.u32()?;
            let value = cursor.value(kind)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(GgufError::Duplicate { what: "metadata key", name: key });
            }
        }
        let mut directory = Vec::new();
        for _ in 0..n_tensors {
            directory.push(cursor.tensor()?);
        }

        let alignment = match metadata.get("general.alignment") {
            Some(Value::Unsigned(n)) if n.is_power_of_two() && *n <= 65_536 => *n,
            Some(Value::Unsigned(n)) => return Err(GgufError::Bound { what: "general.alignment", value: *n, most: 65_536 }),
            _ => DEFAULT_ALIGNMENT,
        };
        let data_start = (cursor.at as u64).next_multiple_of(alignment);
        let mut tensors = HashMap::new();
        for (name, raw) in directory {
            let entry = raw.place(&name, data_start, bytes.len() as u64)?;
            if tensors.insert(name.clone(), entry).is_some() {
                return Err(GgufError::Duplicate { what: "tensor", name });
            }
        }
        Ok(Self { bytes, metadata, tensors })
    }

    pub fn tensor(&self, name: &str) -> Result<&TensorEntry, GgufError> {
        self.tensors.get(name).ok_or_else(|| GgufError::MissingTensor { name: name.to_owned() })
    }

    /// Names of all tensors, in no order.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Stored bytes of a tensor.
    pub fn data(&self, entry: &TensorEntry) -> &'a [u8] {
        self.bytes.get(entry.offset..entry.offset + entry.bytes).unwrap_or_default()
    }

    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    pub fn unsigned(&self, key: &str) -> Result<u64, GgufError> {
        match self.required(key)? {
            Value::Unsigned(n) => Ok(*n),
            Value::Signed(n) if *n >= 0 => Ok(n.unsigned_abs()),
            _ => Err(GgufError::KeyType { key: key.to_owned(), expected: "a whole number" }),
        }
    }

    pub fn float(&self, key: &str) -> Result<f64, GgufError> {
        match self.required(key)? {
            Value::Float(x) => Ok(*x),
            _ => Err(GgufError::KeyType { key: key.to_owned(), expected: "a number with a fraction" }),
        }
    }

    pub fn text(&self, key: &str) -> Result<&str, GgufError> {
        match self.required(key)? {
            Value::Text(text) => Ok(text),
            _ => Err(GgufError::KeyType { key: key.to_owned(), expected: "text" }),
        }
    }

    pub fn texts(&self, key: &str) -> Result<Vec<&str>, GgufError> {
        let wrong = || GgufError::KeyType { key: key.to_owned(), expected: "a list of texts" };
        let Value::Array(items) = self.required(key)? else { return Err(wrong()) };
        items.iter().map(|item| if let Value::Text(text) = item { Ok(text.as_str()) } else { Err(wrong()) }).collect()
    }

    /// Whole numbers of a list; numbers of another kind are an error.
    pub fn integers(&self, key: &str) -> Result<Vec<i64>, GgufError> {
        let wrong = || GgufError::KeyType { key: key.to_owned(), expected: "a list of whole numbers" };
        let Value::Array(items) = self.required(key)? else { return Err(wrong()) };
        let number = |item: &Value| match item {
            Value::Signed(n) => Ok(*n),
            Value::Unsigned(n) => i64::try_from(*n).map_err(|_| wrong()),
            _ => Err(wrong()),
        };
        items.iter().map(number).collect()
    }

    fn required(&self, key: &str) -> Result<&Value, GgufError> {
        self.metadata.get(key).ok_or_else(|| GgufError::MissingKey { key: key.to_owned() })
    }
}

/// A directory entry before its place in the file was checked.
struct RawTensor {
    shape: Vec<u64>,
    kind: u32,
    offset: u64,
}

impl RawTensor {
    fn place(self, name: &str, data_start: u64, length: u64) -> Result<TensorEntry, GgufError> {
        let kind = QuantType::from_code(self.kind).ok_or_else(|| GgufError::Storage { name: name.to_owned(), kind: self.kind })?;
        let block = kind.block_elements() as u64;
        let shape_error = || GgufError::Shape { name: name.to_owned(), shape: self.shape.clone(), block };
        if self.shape.contains(&0) || !self.shape.first().unwrap_or(&0).is_multiple_of(block) {
            return Err(shape_error());
        }
        let elements = self.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).ok_or_else(shape_error)?;
        let needed = (elements / block).checked_mul(kind.block_bytes() as u64).ok_or_else(shape_error)?;
        let offset = data_start.saturating_add(self.offset);
        if offset.checked_add(needed).is_none_or(|end| end > length) {
            return Err(GgufError::Truncated { offset, needed, length });
        }
        // Both fit: they are below the length of a slice.
        Ok(TensorEntry { shape: self.shape, kind, offset: offset as usize, bytes: needed as usize })
    }
}

/// Reads the header, and no further.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// List items so far.
    items: u64,
    file_bytes: u64,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], GgufError> {
        let beyond = if (self.bytes.len() as u64) < self.file_bytes {
            GgufError::Bound { what: "header length", value: (self.at as u64).saturating_add(count), most: MAX_HEADER_BYTES as u64 }
        } else {
            GgufError::Truncated { offset: self.at as u64, needed: count, length: self.file_bytes }
        };
        let end = usize::try_from(count).ok().and_then(|n| self.at.checked_add(n));
        let Some(piece) = end.and_then(|end| self.bytes.get(self.at..end)) else { return Err(beyond) };
        self.at += piece.len();
        Ok(piece)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, GgufError> {
        let length = self.u64()?;
        let offset = self.at as u64;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| GgufError::Utf8 { offset })
    }

    fn value(&mut self, kind: u32) -> Result<Value, GgufError> {
        if kind != 9 {
            return self.scalar(kind);
        }
        let item = self.u32()?;
        let count = self.u64()?;
        self.items = bounded("number of list items", self.items.saturating_add(count), MAX_ITEMS)?;
        // The least item takes one byte, so a count beyond the file can't make the list large.
        let mut items = Vec::with_capacity((count as usize).min(self.bytes.len() - self.at));
        for _ in 0..count {
            // Nested arrays are allowed by the format and used by no model; scalar() refuses them, so nothing recurses.
            items.push(self.scalar(item)?);
        }
        Ok(Value::Array(items))
    }

    fn scalar(&mut self, kind: u32) -> Result<Value, GgufError> {
        Ok(match kind {
            0 => Value::Unsigned(self.array().map(u8::from_le_bytes)?.into()),
            1 => Value::Signed(self.array().map(i8::from_le_bytes)?.into()),
            2 => Value::Unsigned(self.array().map(u16::from_le_bytes)?.into()),
            3 => Value::Signed(self.array().map(i16::from_le_bytes)?.into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(self.array().map(i32::from_le_bytes)?.into()),
            6 => Value::Float(self.array().map(f32::from_le_bytes)?.into()),
            7 => Value::Bool(self.array::<1>()? != [0]),
            8 => Value::Text(self.text()?),
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(self.array().map(i64::from_le_bytes)?),
            12 => Value::Float(self.array().map(f64::from_le_bytes)?),
            kind => return Err(GgufError::ValueType { kind }),
        })
    }

    fn tensor(&mut self) -> Result<(String, RawTensor), GgufError> {
        let name = self.text()?;
        let n_dims = self.u32()?;
        bounded("tensor dimensions", n_dims.into(), MAX_DIMS.into())?;
        let shape = (0..n_dims).map(|_| self.u64()).collect::<Result<Vec<u64>, _>>()?;
        let kind = self.u32()?;
        let offset = self.u64()?;
        Ok((name, RawTensor { shape, kind, offset }))
    }
}

fn bounded(what: &'static str, value: u64, most: u64) -> Result<u64, GgufError> {
    if value > most {
        return Err(GgufError::Bound { what, value, most });
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
