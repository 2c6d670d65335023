//! The numeric contract `parallelix-x8-1` on NVIDIA cards, by the kernels in `gpu-node/kernels`.
//!
//! The back end is the same over every [`Device`]: the driver's, and the one of the tests that runs the kernels' text on the processor.
//! A device that fails stays failed: nothing more is started on it, and [`super::Backend::fault`] says why.

pub mod code; // machine code of the kernels, embedded or compiled
pub mod device; // what a card can do
pub mod driver; // NVIDIA's driver, the only one with unsafe calls
mod launches; // one typed launcher a kernel
mod memory; // weights, activations, pages, a step's inputs
mod operations; // the operations of a forward pass
pub mod plan; // shapes of launches
mod sampling; // draws from logits where they lie
mod steps; // decoding steps as recordings

use std::cell::RefCell;
use std::time::Instant;

use super::BackendError;
use crate::model::panels::BLOCK;
use device::{Device, Launch};
use launches::{Operand, Quantized, Rows};
use memory::{Count, Grown, Inputs};
pub use memory::{Matrix, Pool, Rope, Tensor, Vector};
use plan::Epilogue;
use sampling::Samples;
use steps::Steps;

/// A card.
pub struct GpuBackend<D: Device> {
    device: D,
    /// Why nothing is computed any more.
    fault: RefCell<Option<String>>,
    inputs: Inputs<D>,
    /// Partial results of split attention.
    partials: Grown<D>,
    digests: Grown<D>,
    samples: Samples<D>,
    steps: Steps<D>,
    /// Part of the free memory that pages may take.
    memory_share: f64,
}

impl<D: Device> GpuBackend<D> {
    /// Pages may take `memory_share` of what is free once the weights are loaded.
    pub fn new(device: D, memory_share: f64) -> Self {
        Self {
            device,
            fault: RefCell::new(None),
            inputs: Inputs::new(),
            partials: Grown::default(),
            digests: Grown::default(),
            samples: Samples::default(),
            steps: Steps::default(),
            memory_share,
        }
    }

    /// The card.
    pub fn inner(&self) -> &D {
        &self.device
    }

    /// Remembers the first fault.
    fn fail(&self, reason: impl ToString) {
        self.fault.borrow_mut().get_or_insert_with(|| reason.to_string());
    }

    /// `None` after a fault, which is remembered.
    fn sound<T, E: ToString>(&self, result: Result<T, E>) -> Option<T> {
        if self.fault.borrow().is_some() {
            return None;
        }
        result.map_err(|error| self.fail(error)).ok()
    }

    fn start(&self, launch: &Launch) {
        if self.fault.borrow().is_none()
            && let Err(fault) = launches::start(&self.device, launch)
        {
            self.fail(fault);
        }
    }

    fn upload(&self, bytes: &[u8]) -> Result<D::Memory, BackendError> {
        let memory = self.device.allocate(bytes.len())?;
        self.device.write(&memory, 0, bytes).map_err(|fault| BackendError::Device(fault.0))?;
        Ok(memory)
    }

    fn rows(&self, of: Count) -> Rows {
        self.inputs.count(&self.device, of)
    }

    /// Quantises what no kernel has quantised on its way.
    fn quantized(&mut self, x: &Tensor<D>) -> Quantized {
        let out = x.quantized(&self.device);
        if !x.is_quantized {
            self.start(&launches::quantize(x.floats.address(&self.device), self.rows(x.of), x.width, out));
        }
        out
    }

    /// Whether the step runs from a recording, so that nothing is started singly.
    fn skips(&self) -> bool {
        self.steps.replays() || self.fault.borrow().is_some()
    }

    /// Gives `out` rows like those of `x`, with room.
    fn shape(&mut self, out: &mut Tensor<D>, rows: usize, of: Count) -> Option<Rows> {
        (out.rows, out.of, out.is_quantized) = (rows, of, false);
        let grid = self.rows(of);
        let room = out.float_room(&self.device, grid.grid.max(rows)).and_then(|_| {
            if out.width.is_multiple_of(BLOCK) { out.quantized_room(&self.device, grid.grid.max(rows)).map(drop) } else { Ok(()) }
        });
        self.sound(room)?;
        (!self.skips()).then_some(grid)
    }

    fn products(&mut self, epilogue: Epilogue, of: &[Operand], x: Quantized, rows: Rows, width: usize, gated: Quantized) -> bool {
        let plan = plan::product(rows.grid, epilogue);
        for of in of.chunks(launches::MATRICES_MAX) {
            self.start(&launches::product(&plan, epilogue == Epilogue::Gate, of, x, rows, width, gated));
        }
        plan.quantizes
    }

    fn operand(&self, matrix: &Matrix<D>, out: u64) -> Operand {
        Operand { weights: self.weights(matrix), out, outputs: matrix.rows }
    }

    fn weights(&self, matrix: &Matrix<D>) -> Quantized {
        Quantized { values: self.device.address(&matrix.values), scales: self.device.address(&matrix.scales) }
    }

    fn vector_address(&self, vector: &Vector<D>) -> u64 {
        self.device.address(&vector.0)
    }

    /// GB/s that the card reads and writes together, copying `bytes` so many times; the figure beside which all others stand.
    pub fn copy_gb_per_s(&self, bytes: usize, times: usize) -> Result<f64, BackendError> {
        let failed = |fault: device::Fault| BackendError::Device(fault.0);
        let (from, to) = (self.device.allocate(bytes)?, self.device.allocate(bytes)?);
        let copy = launches::copy(self.device.address(&from), self.device.address(&to), bytes, self.device.facts().multiprocessors);
        let mut last = [0u8; 1];
        // The first one loads the kernel.
        launches::start(&self.device, &copy).map_err(failed)?;
        self.device.read(&to, 0, &mut last).map_err(failed)?;
        let began = Instant::now();
        for _ in 0..times {
            launches::start(&self.device, &copy).map_err(failed)?;
        }
        self.device.read(&to, 0, &mut last).map_err(failed)?;
        Ok(2.0 * (bytes * times) as f64 / began.elapsed().as_secs_f64() / 1e9)
    }

    fn read_into(&self, from: &Grown<D>, offset: usize, bytes: &mut [u8]) {
        if self.fault.borrow().is_none()
            && let Some(memory) = from.memory()
            && let Err(fault) = self.device.read(memory, offset, bytes)
        {
            self.fail(fault);
        }
    }

    /// `rows` rows from `first` on, behind what is in `out`.
    fn floats(&self, x: &Tensor<D>, first: usize, rows: usize, out: &mut Vec<f32>) {
        let row_bytes = x.width * size_of::<f32>();
        let mut bytes = vec![0u8; rows * row_bytes];
        self.read_into(&x.floats, first * row_bytes, &mut bytes);
        out.extend(bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)));
    }
}
