//! The CUDA kernels without a GPU: their own text, compiled by g++ for threads that are fibers, against the CPU back end, bit by bit.
//!
//! What this shows is that the kernels compute the contract, for these shapes, as the C++ that they are. What the hardware does with
//! them (instructions, memory order between warps, speed) no test without a card can show.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod emulated; // the device
mod engine; // whole models, and a device that fails
mod operations; // single operations at odd shapes
mod sampling; // draws from hostile logits

use std::sync::OnceLock;

use gpu_node::backend::cuda::GpuBackend;

use emulated::{Emulated, Library};

/// Part of the memory that pages may take.
const SHARE: f64 = 0.5;

/// The kernels, compiled once; `None`, said aloud, where there is no C++ compiler.
fn library() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    LIBRARY.get_or_init(Library::build).as_ref()
}

fn emulated() -> Option<GpuBackend<Emulated>> {
    Some(GpuBackend::new(Emulated::new(library()?), SHARE))
}
