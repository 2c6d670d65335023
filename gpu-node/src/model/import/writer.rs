//! `model.safetensors` as the engine maps it, streamed, with the model root computed on the way.
//!
//! Order of the data: the values of every matrix, then every matrix's scales, then the vectors, so that each value block
//! begins at a multiple of 64 bytes. Scales and vectors wait in memory until the end; they are a seventeenth of the file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use alloy::primitives::{B256, keccak256};
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::model::digest::CHUNK_BYTES;
use crate::model::panels::{BLOCK, PANEL_ROWS, panel_bytes};
pub use crate::model::tensors::{TensorShape, TensorSpec};

/// Version of the layout, in the file's metadata.
const LAYOUT: &str = "parallelix-panels-1";

/// Writes one file; tensors are given in the order of the specs.
pub struct WeightsWriter {
    out: Rooted,
    specs: Vec<TensorSpec>,
    /// Tensors given so far, whole.
    given: usize,
    /// Bytes of values already written of the matrix whose turn it is.
    written: usize,
    scales: Vec<u8>,
    vectors: Vec<u8>,
}

impl WeightsWriter {
    /// Creates the file and writes its header.
    pub fn create(path: &Path, specs: Vec<TensorSpec>) -> io::Result<Self> {
        let file = BufWriter::with_capacity(CHUNK_BYTES, File::create(path)?);
        let mut out = Rooted { file, chunk: Vec::with_capacity(CHUNK_BYTES), leaves: Vec::new() };
        out.write_all(&header_bytes(&specs))?;
        Ok(Self { out, specs, given: 0, written: 0, scales: Vec::new(), vectors: Vec::new() })
    }

    /// The next tensor, a matrix, in panels.
    pub fn matrix(&mut self, values: &[u8], scales: &[u8]) -> io::Result<()> {
        let expected = match self.specs.get(self.given).map(|spec| spec.shape) {
            Some(TensorShape::Matrix { rows, columns }) => panel_bytes(rows, columns),
            other => return Err(io::Error::other(format!("a matrix was given, expected {other:?}"))),
        };
        if (values.len(), scales.len()) != expected {
            return Err(io::Error::other(format!("{} + {} bytes, expected {expected:?}", values.len(), scales.len())));
        }
        self.panels(values, scales)
    }

    /// The next whole panels of the matrix whose turn it is; with its last panel the next tensor's turn comes.
    pub fn panels(&mut self, values: &[u8], scales: &[u8]) -> io::Result<()> {
        let (columns, expected) = match self.specs.get(self.given).map(|spec| spec.shape) {
            Some(TensorShape::Matrix { rows, columns }) => (columns, panel_bytes(rows, columns).0),
            other => return Err(io::Error::other(format!("panels were given, expected {other:?}"))),
        };
        let whole = panel_bytes(values.len() / columns.max(1), columns) == (values.len(), scales.len());
        let written = self.written + values.len();
        if !whole || written > expected {
            return Err(io::Error::other(format!("{} + {} bytes after {} of {expected}", values.len(), scales.len(), self.written)));
        }
        self.out.write_all(values)?;
        self.scales.extend_from_slice(scales);
        self.written = if written == expected { 0 } else { written };
        self.given += usize::from(written == expected);
        Ok(())
    }

    /// The next tensor, a vector.
    pub fn vector(&mut self, elements: &[f32]) -> io::Result<()> {
        match self.specs.get(self.given).map(|spec| spec.shape) {
            Some(TensorShape::Vector { length }) if length == elements.len() => self.given += 1,
            other => return Err(io::Error::other(format!("{} elements, expected {other:?}", elements.len()))),
        }
        self.vectors.extend(elements.iter().flat_map(|x| x.to_le_bytes()));
        Ok(())
    }

    /// Completes the file and returns its model root.
    pub fn finish(mut self) -> io::Result<B256> {
        if self.given != self.specs.len() {
            return Err(io::Error::other(format!("{} of {} tensors were given", self.given, self.specs.len())));
        }
        self.out.write_all(&self.scales)?;
        self.out.write_all(&self.vectors)?;
        self.out.flush()?;
        self.out.root().ok_or_else(|| io::Error::other("the file has no bytes"))
    }
}

/// Bytes of the whole file.
pub fn file_bytes(specs: &[TensorSpec]) -> u64 {
    let data: u64 = parts(specs).iter().map(|part| part.bytes as u64).sum();
    header_bytes(specs).len() as u64 + data
}

/// A tensor of the safetensors file.
struct Part {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: usize,
}

/// Every stored tensor in the order of the data.
fn parts(specs: &[TensorSpec]) -> Vec<Part> {
    let (mut values, mut scales, mut vectors) = (Vec::new(), Vec::new(), Vec::new());
    for TensorSpec { name, shape } in specs {
        match *shape {
            TensorShape::Matrix { rows, columns } => {
                let (panels, blocks) = (rows.div_ceil(PANEL_ROWS), columns / BLOCK);
                let (value_bytes, scale_bytes) = panel_bytes(rows, columns);
                let shape = vec![panels, blocks, BLOCK / 4, PANEL_ROWS, 4];
                values.push(Part { name: name.clone(), dtype: Dtype::U8, shape, bytes: value_bytes });
                let shape = vec![panels, blocks, PANEL_ROWS];
                scales.push(Part { name: format!("{name}_scale"), dtype: Dtype::F16, shape, bytes: scale_bytes });
            }
            TensorShape::Vector { length } => {
                vectors.push(Part { name: name.clone(), dtype: Dtype::F32, shape: vec![length], bytes: length * 4 });
            }
        }
    }
    values.into_iter().chain(scales).chain(vectors).collect()
}

/// Length (u64, little-endian) and JSON header, padded so that tensor data begins at a multiple of 64 bytes.
fn header_bytes(specs: &[TensorSpec]) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt", "layout": LAYOUT}));
    let mut offset = 0;
    for Part { name, dtype, shape, bytes } in parts(specs) {
        let end = offset + bytes;
        header.insert(name, json!({"dtype": format!("{dtype:?}"), "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut header = Value::Object(header);
    // The order of keys is part of the model root; it must not hang on which crates are compiled beside this one.
    header.sort_all_objects();
    let mut json = header.to_string().into_bytes();
    json.resize((json.len() + 8).next_multiple_of(64) - 8, b' ');
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json);
    out
}

/// A file writer that hashes every 1 MiB chunk as it passes.
struct Rooted {
    file: BufWriter<File>,
    chunk: Vec<u8>,
    leaves: Vec<B256>,
}

impl Rooted {
    fn seal(&mut self) {
        self.leaves.push(keccak256(keccak256(&self.chunk)));
        self.chunk.clear();
    }

    fn root(mut self) -> Option<B256> {
        if !self.chunk.is_empty() {
            self.seal();
        }
        wire::merkle::root(&self.leaves)
    }
}

impl Write for Rooted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = (CHUNK_BYTES - self.chunk.len()).min(bytes.len());
        let (now, _) = bytes.split_at(room);
        self.file.write_all(now)?;
        self.chunk.extend_from_slice(now);
        if self.chunk.len() == CHUNK_BYTES {
            self.seal();
        }
        Ok(room)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
