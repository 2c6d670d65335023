//! The operations of a forward pass, each one or a few launches.

use alloy::primitives::B256;

use super::device::Device;
use super::launches::{self, Operand, Quantized, Rows};
use super::memory::{Count, Part};
use super::plan::{self, Epilogue};
use super::{GpuBackend, Matrix, Pool, Rope, Tensor, Vector};
use crate::backend::{
    AttentionShape, Backend, BackendError, CacheShape, Draw, Found, PAGE_TOKENS, PageId, Placement, Projections, RopeShape, cpu,
};
use crate::model::PanelMatrix;
use crate::model::panels::BLOCK;
use crate::proof::position_digest;

/// Up to so many rows the processor digests them: a row's keccak is one long chain, which a card computes slowly.
const HOST_DIGESTS: usize = 16;

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
            let multiprocessors = self.device.facts().multiprocessors;
            let mut plan = plan::attention(shape, tile_count, self.inputs.chunks, single, multiprocessors);
            let room = self.partials.at_least(&self.device, plan.partial_bytes.max(4));
            if matches!(room, Err(BackendError::OutOfMemory { .. })) {
                // Without room for parts each CTA takes all chunks: slower, the same bits.
                plan = plan::attention(shape, tile_count, self.inputs.chunks, single, 0);
            }
            let room = if plan.slots.is_some() { room } else { Ok(0) };
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
        if self.inputs.chosen != rows {
            let chosen = self.inputs.choose(&self.device, rows);
            if self.sound(chosen).is_none() {
                return;
            }
        }
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
            self.floats(x, 0, x.rows, &mut rows);
            out.extend(rows.chunks(x.width).map(position_digest));
            return;
        }
        let (words, flags) = (x.rows * 32, x.rows * 4);
        let mut bytes = vec![0u8; words + flags];
        let room = self.digests.at_least(&self.device, bytes.len());
        if let Some(to) = self.sound(room) {
            let rows = Rows { grid: x.rows, ..self.rows(x.of) };
            self.start(&launches::digest(x.floats.address(&self.device), rows, x.width, to, to + words as u64));
            self.read_into(&self.digests, 0, &mut bytes);
        }
        let (digests, finite) = bytes.split_at(words);
        let flags = finite.as_chunks::<4>().0.iter().map(|flag| u32::from_le_bytes(*flag) != 0);
        out.extend(digests.as_chunks::<32>().0.iter().zip(flags).map(|(digest, finite)| finite.then_some(B256::new(*digest))));
    }

    fn draws(&self) -> bool {
        true
    }

    fn draw(&mut self, logits: &Tensor<D>, draws: &[Option<Draw>], out: &mut Vec<Found>) {
        self.sample(logits, draws, out);
    }

    fn read(&self, x: &Tensor<D>, out: &mut Vec<f32>) {
        out.clear();
        self.floats(x, 0, x.rows, out);
    }

    fn read_row(&self, x: &Tensor<D>, row: usize, out: &mut Vec<f32>) {
        self.floats(x, row, 1, out);
    }
}

pub(super) fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
