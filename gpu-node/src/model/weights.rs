//! `model.safetensors`, memory-mapped.
#![allow(unsafe_code)] // One mapping, justified where it is made.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

/// Storage types that the back ends compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    F16,
    Bf16,
    F32,
}

impl DType {
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// Appends stored elements as f32, exact.
    pub fn widen(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::F16 => out.extend(bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32())),
            Self::Bf16 => out.extend(bytes.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32())),
            Self::F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
        }
    }
}

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
    #[error("tensor {name} is stored as {found}; F16, BF16 and F32 are computed on")]
    Storage { name: String, found: String },
}

/// One tensor inside the mapping; cheap to clone.
#[derive(Clone)]
pub struct WeightTensor {
    map: Arc<Mmap>,
    range: Range<usize>,
    shape: Vec<usize>,
    dtype: DType,
}

impl WeightTensor {
    pub fn bytes(&self) -> &[u8] {
        self.map.get(self.range.clone()).unwrap_or_default()
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// All elements as f32, exact.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.bytes().len() / self.dtype.bytes());
        self.dtype.widen(self.bytes(), &mut out);
        out
    }
}

/// The tensors of one file by name.
pub struct Weights {
    map: Arc<Mmap>,
    tensors: HashMap<String, WeightTensor>,
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
        let parsed = SafeTensors::deserialize(&map).map_err(|e| format(e.to_string()))?;

        let mut tensors = HashMap::new();
        for (name, view) in parsed.tensors() {
            let dtype = match view.dtype() {
                Dtype::F16 => DType::F16,
                Dtype::BF16 => DType::Bf16,
                Dtype::F32 => DType::F32,
                other => return Err(WeightsError::Storage { name, found: format!("{other:?}") }),
            };
            let start = view.data().as_ptr() as usize - base;
            let range = start..start + view.data().len();
            let tensor = WeightTensor { map: Arc::clone(&map), range, shape: view.shape().to_vec(), dtype };
            tensors.insert(name, tensor);
        }
        Ok(Self { map, tensors, path: path.to_owned() })
    }

    /// The tensor of that name, refused when its shape differs.
    pub fn tensor(&self, name: &str, expected: &[usize]) -> Result<WeightTensor, WeightsError> {
        let tensor = self.tensors.get(name).ok_or_else(|| WeightsError::Missing { name: name.to_owned() })?;
        if tensor.shape != expected {
            return Err(WeightsError::Shape { name: name.to_owned(), found: tensor.shape.clone(), expected: expected.to_vec() });
        }
        Ok(tensor.clone())
    }

    /// The whole file.
    pub fn file_bytes(&self) -> &[u8] {
        &self.map
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}
