//! The numeric contract `parallelix-x8-1` on NVIDIA cards, by the kernels in `gpu-node/kernels`.
//!
//! The back end is the same over every [`Device`]: the driver's, and the one of the tests that runs the kernels' text on the processor.
//! A device that fails stays failed: nothing more is started on it, and [`Backend::fault`] says why.

pub mod code; // machine code of the kernels, embedded or compiled
pub mod device; // what a card can do
pub mod driver; // NVIDIA's driver, the only one with unsafe calls
mod launches; // one typed launcher a kernel
mod memory; // weights, activations, pages, a step's inputs
pub mod plan; // shapes of launches
mod steps; // decoding steps as recordings

use std::cell::RefCell;
use std::time::Instant;

use alloy::primitives::B256;

use super::{AttentionShape, Backend, BackendError, CacheShape, PAGE_TOKENS, PageId, Placement, Projections, RopeShape, cpu};
use crate::model::PanelMatrix;
use crate::model::panels::BLOCK;
use crate::proof::position_digest;
use device::{Device, Launch};
use launches::{Operand, Quantized, Rows};
use memory::{Count, Grown, Inputs, Part};
pub use memory::{Matrix, Pool, Rope, Tensor, Vector};
use plan::Epilogue;
use steps::Steps;

/// Up to so many rows the processor digests them: a row's keccak is one long chain, which a card computes slowly.
const HOST_DIGESTS: usize = 16;

/// A card.
pub struct GpuBackend<D: Device> {
    device: D,
    /// Why nothing is computed any more.
    fault: RefCell<Option<String>>,
    inputs: Inputs<D>,
    /// Partial results of split attention.
    partials: Grown<D>,
    digests: Grown<D>,
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

    /// The greatest logit's token of each row and whether all logits are finite, as temperature 0 draws.
    pub fn greatest(&mut self, logits: &Tensor<D>) -> Vec<(u32, bool)> {
        let mut bytes = vec![0u8; logits.rows * 8];
        let room = self.digests.at_least(&self.device, bytes.len().max(8));
        if let Some(out) = self.sound(room) {
            let rows = self.rows(logits.of);
            let rows = Rows { grid: logits.rows, ..rows };
            self.start(&launches::argmax(logits.floats.address(&self.device), rows, logits.width, out));
            self.read_into(&self.digests, &mut bytes);
        }
        let words = bytes.as_chunks::<4>().0.as_chunks::<2>().0;
        words.iter().map(|[id, finite]| (u32::from_le_bytes(*id), u32::from_le_bytes(*finite) != 0)).collect()
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

    fn read_into(&self, from: &Grown<D>, bytes: &mut [u8]) {
        if self.fault.borrow().is_none()
            && let Some(memory) = from.memory()
            && let Err(fault) = self.device.read(memory, 0, bytes)
        {
            self.fail(fault);
        }
    }

    fn floats(&self, x: &Tensor<D>, out: &mut Vec<f32>) {
        let mut bytes = vec![0u8; x.rows * x.width * size_of::<f32>()];
        self.read_into(&x.floats, &mut bytes);
        out.clear();
        out.extend(bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)));
    }
}

impl<D: Device> Backend for GpuBackend<D> {
    type Matrix = Matrix<D>;
    type Vector = Vector<D>;
    type Tensor = Tensor<D>;
    type Pool = Pool<D>;
    type Rope = Rope<D>;

    fn device(&self) -> (&'static str, String, usize) {
        let facts = self.device.facts();
        ("cuda", facts.name.clone(), facts.multiprocessors)
    }

    fn memory_bytes(&self) -> Option<u64> {
        Some(self.device.facts().memory_bytes as u64)
    }

    fn numeric_contract(&self) -> &'static str {
        cpu::NUMERIC_CONTRACT
    }

    fn matrix(&self, weight: PanelMatrix) -> Result<Matrix<D>, BackendError> {
        let (rows, columns) = (weight.rows(), weight.columns());
        if columns == 0 || !columns.is_multiple_of(BLOCK) {
            return Err(BackendError::Shape { shape: vec![rows, columns], reason: "the inner dimension must be a multiple of 32" });
        }
        let panels = weight.panels();
        let (values, scales) = (self.upload(panels.values)?, self.upload(panels.scales)?);
        let repack = launches::repack(self.device.address(&values), panels.values.len());
        launches::start(&self.device, &repack).map_err(|fault| BackendError::Device(fault.0))?;
        Ok(Matrix { values, scales, rows })
    }

    fn vector(&self, weight: Vec<f32>) -> Result<Vector<D>, BackendError> {
        self.upload(&bytes_of(&weight)).map(Vector)
    }

    fn tensor(&self, rows: usize, width: usize) -> Result<Tensor<D>, BackendError> {
        let mut tensor = Tensor::new(width);
        if rows > 0 {
            tensor.float_room(&self.device, rows)?;
            if width.is_multiple_of(BLOCK) {
                tensor.quantized_room(&self.device, rows)?;
            }
        }
        Ok(tensor)
    }

    fn rope(&self, shape: RopeShape, positions: usize) -> Result<Rope<D>, BackendError> {
        let tables = cpu::Rope::new(shape, positions)?;
        let (cos, sin) = tables.tables();
        Ok(Rope { cos: self.upload(&bytes_of(cos))?, sin: self.upload(&bytes_of(sin))? })
    }

    fn pool(&self, shape: CacheShape, pages: usize) -> Result<Pool<D>, BackendError> {
        Ok(Pool { memory: self.device.allocate(pages * self.page_bytes(shape))?, shape })
    }

    fn page_bytes(&self, shape: CacheShape) -> usize {
        shape.layers * shape.kv_heads * shape.head_dim * PAGE_TOKENS * 2 * size_of::<u16>()
    }

    fn kv_budget_bytes(&self, _configured: usize) -> usize {
        match self.device.free_bytes() {
            Ok(free) => (free as f64 * self.memory_share) as usize,
            Err(fault) => {
                self.fail(fault);
                0
            }
        }
    }

    fn fault(&self) -> Option<String> {
        self.fault.borrow().clone()
    }

    fn prepare(&mut self, _pool: &mut Pool<D>, _page: PageId) -> Result<(), BackendError> {
        // All pages have their memory from the start.
        Ok(())
    }

    fn begin_step(&mut self, shape: AttentionShape, placement: &Placement<'_>, tokens: &[u32], chosen: &[usize]) {
        self.prepare_step(shape, placement, tokens, chosen);
    }

    fn end_step(&mut self) {
        self.finish_step();
    }

    fn embed(&mut self, table: &Matrix<D>, tokens: &[u32], out: &mut Tensor<D>) {
        if let Some(rows) = self.shape(out, tokens.len(), Count::Rows) {
            let (tokens, to) = (self.inputs.address(&self.device, Part::Tokens), out.floats.address(&self.device));
            self.start(&launches::embed(self.weights(table), tokens, rows, out.width, to));
        }
    }

    fn norm(&mut self, x: &Tensor<D>, gain: &Vector<D>, eps: f32, out: &mut Tensor<D>) {
        let rows = self.shape(out, x.rows, x.of);
        out.is_quantized = true;
        if let Some(rows) = rows {
            let (from, to) = (x.floats.address(&self.device), out.floats.address(&self.device));
            self.start(&launches::norm(from, self.vector_address(gain), rows, x.width, eps, to, out.quantized(&self.device)));
        }
    }

    fn project(&mut self, x: &Tensor<D>, products: &mut [(&Matrix<D>, &mut Tensor<D>)]) {
        for (_, out) in products.iter_mut() {
            self.shape(out, x.rows, x.of);
        }
        if self.skips() {
            return;
        }
        let input = self.quantized(x);
        let operands: Vec<Operand> = products.iter().map(|(matrix, out)| self.operand(matrix, out.floats.address(&self.device))).collect();
        self.products(Epilogue::Store, &operands, input, self.rows(x.of), x.width, Quantized { values: 0, scales: 0 });
    }

    fn project_add(&mut self, w: &Matrix<D>, x: &Tensor<D>, residual: &mut Tensor<D>) {
        residual.is_quantized = false;
        if self.skips() {
            return;
        }
        let input = self.quantized(x);
        let operand = self.operand(w, residual.floats.address(&self.device));
        self.products(Epilogue::Add, &[operand], input, self.rows(x.of), x.width, Quantized { values: 0, scales: 0 });
    }

    fn project_gated(&mut self, gate: &Matrix<D>, up: &Matrix<D>, x: &Tensor<D>, out: &mut Tensor<D>) {
        let rows = self.shape(out, x.rows, x.of);
        let Some(rows) = rows else { return };
        let input = self.quantized(x);
        let to = out.floats.address(&self.device);
        let operands = [self.operand(gate, to), self.operand(up, to)];
        out.is_quantized = self.products(Epilogue::Gate, &operands, input, rows, x.width, out.quantized(&self.device));
    }

    fn attend(
        &mut self,
        shape: AttentionShape,
        layer: usize,
        placement: &Placement<'_>,
        rope: &Rope<D>,
        qkv: Projections<'_, Self>,
        pool: &mut Pool<D>,
        out: &mut Tensor<D>,
    ) {
        let rows = self.shape(out, placement.rows.len(), Count::Rows);
        out.is_quantized = true;
        let Some(rows) = rows else { return };
        let device = &self.device;
        let [q, k, v] = [&*qkv.q, &*qkv.k, &*qkv.v].map(|tensor| tensor.floats.address(device));
        let heads = launches::Heads {
            qkv: [q, k, v],
            biases: qkv.bias.map_or([0; 3], |bias| bias.map(|bias| self.vector_address(bias))),
            gains: qkv.norm.map_or([0; 2], |gain| gain.map(|gain| self.vector_address(gain))),
            angles: [device.address(&rope.cos), device.address(&rope.sin)],
            heads: shape.heads,
            eps: qkv.eps,
        };
        let cache = launches::Cache {
            pages: device.address(&pool.memory),
            page_elements: self.page_bytes(pool.shape) / size_of::<u16>(),
            layer,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
        };
        let places = self.inputs.places(device);
        self.start(&launches::rope(heads, cache, places, rows));
        for (part, count, single) in [(Part::Single, self.inputs.single, true), (Part::Many, self.inputs.many, false)] {
            // A recording has a tile for every row of its bucket; those without rows do nothing.
            let tile_count = if single && self.inputs.stride > self.inputs.rows { self.inputs.stride } else { count };
            if count == 0 {
                continue;
            }
            let plan = plan::attention(shape, tile_count, self.inputs.chunks, single, self.device.facts().multiprocessors);
            let room = self.partials.at_least(&self.device, plan.partial_bytes.max(4));
            let Some(partials) = self.sound(room) else { return };
            let all = launches::Attention {
                q,
                tiles: self.inputs.address(&self.device, part),
                tile_count,
                out: out.floats.address(&self.device),
                quantized: out.quantized(&self.device),
                partials,
                heads: shape.heads,
                window: shape.window,
            };
            for launch in launches::attention(&plan, all, cache, places) {
                self.start(&launch);
            }
        }
    }

    fn gather(&mut self, x: &Tensor<D>, rows: &[usize], out: &mut Tensor<D>) {
        let grid = self.shape(out, rows.len(), Count::Chosen);
        out.is_quantized = true;
        if let Some(rows) = grid {
            let (from, picked) = (x.floats.address(&self.device), self.inputs.address(&self.device, Part::Chosen));
            let to = out.floats.address(&self.device);
            self.start(&launches::gather(from, picked, rows, x.width, to, out.quantized(&self.device)));
        }
    }

    fn digest(&mut self, x: &Tensor<D>, out: &mut Vec<Option<B256>>) {
        out.clear();
        if x.rows <= HOST_DIGESTS {
            let mut rows = Vec::new();
            self.floats(x, &mut rows);
            out.extend(rows.chunks(x.width).map(position_digest));
            return;
        }
        let (words, flags) = (x.rows * 32, x.rows * 4);
        let mut bytes = vec![0u8; words + flags];
        let room = self.digests.at_least(&self.device, bytes.len());
        if let Some(to) = self.sound(room) {
            let rows = Rows { grid: x.rows, ..self.rows(x.of) };
            self.start(&launches::digest(x.floats.address(&self.device), rows, x.width, to, to + words as u64));
            self.read_into(&self.digests, &mut bytes);
        }
        let (digests, finite) = bytes.split_at(words);
        let flags = finite.as_chunks::<4>().0.iter().map(|flag| u32::from_le_bytes(*flag) != 0);
        out.extend(digests.as_chunks::<32>().0.iter().zip(flags).map(|(digest, finite)| finite.then_some(B256::new(*digest))));
    }

    fn read(&self, x: &Tensor<D>, out: &mut Vec<f32>) {
        self.floats(x, out);
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
