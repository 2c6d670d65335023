//! `model.safetensors` with matrices in panels, memory-mapped.
#![allow(unsafe_code)] // One mapping, justified where it is made.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::Dtype;

use super::header;
use super::panels::{BLOCK, PANEL_ROWS, Panels};

/// Why weights were refused.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("{path} can't be read: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a safetensors file: {reason}", path = path.display())]
    Format { path: PathBuf, reason: String },
    #[error("tensor {name} is missing")]
    Missing { name: String },
    #[error("tensor {name} has shape {found:?}, config.json implies {expected:?}")]
    Shape { name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("tensor {name} is stored as {found}, {expected} is computed on; import the model with `gpu-node model import`")]
    Storage { name: String, found: String, expected: &'static str },
    #[error("tensor {name} holds the value {value} at {index}; weights must be finite: import the model again")]
    NotFinite { name: String, index: usize, value: f32 },
}

/// A matrix inside the mapping; cheap to clone.
#[derive(Clone)]
pub struct PanelMatrix {
    map: Arc<Mmap>,
    values: Range<usize>,
    scales: Range<usize>,
    rows: usize,
    columns: usize,
}

impl PanelMatrix {
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The stored bytes.
    pub fn panels(&self) -> Panels<'_> {
        let bytes = |range: &Range<usize>| self.map.get(range.clone()).unwrap_or_default();
        Panels { rows: self.rows, columns: self.columns, values: bytes(&self.values), scales: bytes(&self.scales) }
    }
}

/// One tensor of the file.
struct Stored {
    range: Range<usize>,
    shape: Vec<usize>,
    dtype: Dtype,
}

/// The tensors of one file by name.
pub struct Weights {
    map: Arc<Mmap>,
    tensors: HashMap<String, Stored>,
    path: PathBuf,
}

impl Weights {
    /// Maps the file and checks its header; tensor data is not touched.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let read = |source| WeightsError::Read { path: path.to_owned(), source };
        let format = |reason: String| WeightsError::Format { path: path.to_owned(), reason };
        let file = File::open(path).map_err(read)?;
        // SAFETY: the mapping is read-only and private to this process. The operator owns the file; one that truncates it
        // under a running node stops the node with SIGBUS, as with every engine that maps weights.
        let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(read)?);
        let base = map.as_ptr() as usize;
        let parsed = header::parse(&map).map_err(format)?;

        let mut tensors = HashMap::new();
        for (name, view) in parsed.tensors() {
            let start = view.data().as_ptr() as usize - base;
            let range = start..start + view.data().len();
            tensors.insert(name, Stored { range, shape: view.shape().to_vec(), dtype: view.dtype() });
        }
        Ok(Self { map, tensors, path: path.to_owned() })
    }

    /// The matrix `name` with its scales `name_scale`, refused when its shape is not that of `rows × columns`.
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<PanelMatrix, WeightsError> {
        let (panels, blocks) = (rows.div_ceil(PANEL_ROWS), columns / BLOCK);
        let values = self.stored(name, Dtype::U8, &[panels, blocks, BLOCK / 4, PANEL_ROWS, 4])?;
        let scales = self.stored(&format!("{name}_scale"), Dtype::F16, &[panels, blocks, PANEL_ROWS])?;
        Ok(PanelMatrix { map: Arc::clone(&self.map), values, scales, rows, columns })
    }

    /// The vector `name` of so many elements, all finite.
    pub fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, WeightsError> {
        let range = self.stored(name, Dtype::F32, &[length])?;
        let bytes = self.map.get(range).unwrap_or_default();
        let elements: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        match elements.iter().position(|x| !x.is_finite()) {
            Some(index) => Err(WeightsError::NotFinite { name: name.to_owned(), index, value: elements[index] }),
            None => Ok(elements),
        }
    }

    fn stored(&self, name: &str, dtype: Dtype, expected: &[usize]) -> Result<Range<usize>, WeightsError> {
        let tensor = self.tensors.get(name).ok_or_else(|| WeightsError::Missing { name: name.to_owned() })?;
        if tensor.dtype != dtype {
            let expected = if dtype == Dtype::F32 {
                "F32"
            } else if dtype == Dtype::F16 {
                "F16"
            } else {
                "U8 in panels"
            };
            return Err(WeightsError::Storage { name: name.to_owned(), found: format!("{:?}", tensor.dtype), expected });
        }
        if tensor.shape != expected {
            return Err(WeightsError::Shape { name: name.to_owned(), found: tensor.shape.clone(), expected: expected.to_vec() });
        }
        Ok(tensor.range.clone())
    }

    /// The whole file.
    pub fn file_bytes(&self) -> &[u8] {
        &self.map
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}
