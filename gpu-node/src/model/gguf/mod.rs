//! GGUF files (version 2 and 3), read with every length and offset checked.
//!
//! Source: the GGUF specification in ggml-org/ggml, `docs/gguf.md`.

mod quant;
mod reader;

pub use quant::{IMPORTED_TYPES, QuantType, q8_0_block};
pub use reader::{Gguf, GgufError, TensorEntry, Value};
