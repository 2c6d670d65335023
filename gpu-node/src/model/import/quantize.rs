//! Tensors of a source → stored weights, streamed: pieces of panels are quantised on all threads and written in order.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use alloy::primitives::B256;

use super::writer::{WeightsWriter, file_bytes};
use super::{ImportError, Progress};
use crate::model::gguf::{QuantType, q8_0_block};
use crate::model::panels::{PANEL_ROWS, PanelBuilder, QuantizeError};
use crate::model::tensors::{TensorShape, TensorSpec};

/// Values of one piece, bytes, unless a single panel is larger. Each thread has at most three pieces at once.
const PIECE_BYTES: usize = 4 << 20;

/// One tensor as the source has it. `bytes` are exactly those of its shape.
pub(super) struct SourceTensor<'a> {
    pub(super) spec: TensorSpec,
    pub(super) kind: QuantType,
    pub(super) bytes: &'a [u8],
    /// Rows of a head whose two halves are interleaved, as llama.cpp stores queries and keys of the llama architecture.
    pub(super) interleaved: Option<usize>,
}

impl SourceTensor<'_> {
    /// Where row `row` of the stored matrix is in the source: rows `2i` and `2i + 1` of a head are row `i` of its halves.
    fn source_row(&self, row: usize) -> usize {
        let Some(head) = self.interleaved else { return row };
        let (half, within) = (row % head / (head / 2), row % (head / 2));
        row / head * head + 2 * within + half
    }

    fn in_tensor(&self) -> impl Fn(QuantizeError) -> ImportError {
        |source| ImportError::Quantize { tensor: self.spec.name.clone(), source }
    }

    fn vector(&self) -> Result<Vec<f32>, ImportError> {
        let mut elements = Vec::new();
        self.kind.dequantize(self.bytes, &mut elements);
        match elements.iter().position(|x| !x.is_finite()) {
            Some(column) => Err(self.in_tensor()(QuantizeError::NotFinite { row: 0, column, value: elements[column] })),
            None => Ok(elements),
        }
    }

    /// Panels `first..end` of `rows × columns`.
    fn panels(&self, rows: usize, columns: usize, first: usize, end: usize) -> Result<Piece, ImportError> {
        let row_bytes = columns / self.kind.block_elements() * self.kind.block_bytes();
        let (mut values, mut scales) = (Vec::new(), Vec::new());
        let mut panel = PanelBuilder::new(columns);
        let mut elements = Vec::with_capacity(columns);
        for index in first..end {
            for row in index * PANEL_ROWS..((index + 1) * PANEL_ROWS).min(rows) {
                let at = self.source_row(row) * row_bytes;
                let bytes = self.bytes.get(at..at + row_bytes).unwrap_or_default();
                if self.kind == QuantType::Q8_0 {
                    copy_blocks(row, bytes, &mut panel).map_err(self.in_tensor())?;
                } else {
                    elements.clear();
                    self.kind.dequantize(bytes, &mut elements);
                    panel.set_row(row, &elements).map_err(self.in_tensor())?;
                }
            }
            let (v, s) = panel.take();
            values.extend(v);
            scales.extend(s);
        }
        Ok(Piece::Panels { values, scales })
    }
}

/// Q8_0 has our blocks already: they are taken over as they are, nothing is rounded.
fn copy_blocks(row: usize, bytes: &[u8], panel: &mut PanelBuilder) -> Result<(), QuantizeError> {
    for (index, block) in bytes.as_chunks::<34>().0.iter().enumerate() {
        let (scale, quantized) = q8_0_block(block);
        if !scale.is_finite() {
            return Err(QuantizeError::NotFinite { row, column: index * quantized.len(), value: scale.to_f32() });
        }
        panel.set_block(row, index, scale, quantized);
    }
    Ok(())
}

/// What one thread makes at a time.
enum Piece {
    Panels { values: Vec<u8>, scales: Vec<u8> },
    Vector(Vec<f32>),
}

/// A piece yet to be made: of which tensor, and for matrices which panels.
struct Task {
    tensor: usize,
    first: usize,
    end: usize,
}

/// Bytes that the stored file will have.
pub(super) fn stored_bytes(tensors: &[SourceTensor]) -> u64 {
    file_bytes(&specs(tensors))
}

fn specs(tensors: &[SourceTensor]) -> Vec<TensorSpec> {
    tensors.iter().map(|tensor| tensor.spec.clone()).collect()
}

/// Writes all tensors to `path` and returns the model root. The bytes do not depend on the number of threads.
pub(super) fn write_weights(tensors: &[SourceTensor], path: &Path, threads: usize, progress: &dyn Progress) -> Result<B256, ImportError> {
    let mut out = WeightsWriter::create(path, specs(tensors)).map_err(ImportError::io(path))?;
    progress.begin("quantise weights", stored_bytes(tensors));
    let tasks = tasks(tensors);
    let threads = threads.clamp(1, tasks.len().max(1));
    std::thread::scope(|scope| {
        // Thread t makes every threads-th piece from the t-th on, so taking turns gives the order back.
        let turns: Vec<Receiver<Result<Piece, ImportError>>> = (0..threads)
            .map(|turn| {
                let (send, receive) = sync_channel(1);
                let tasks = &tasks;
                scope.spawn(move || make_pieces(tensors, tasks.iter().skip(turn).step_by(threads), &send));
                receive
            })
            .collect();
        for turn in (0..tasks.len()).map(|index| &turns[index % threads]) {
            let piece = turn.recv().map_err(|_| ImportError::Thread)??;
            let written = match &piece {
                Piece::Panels { values, scales } => out.panels(values, scales).map(|()| values.len() + scales.len()),
                Piece::Vector(elements) => out.vector(elements).map(|()| elements.len() * 4),
            };
            progress.advance(written.map_err(ImportError::io(path))? as u64);
        }
        Ok::<(), ImportError>(())
    })?;
    let root = out.finish().map_err(ImportError::io(path))?;
    progress.end();
    Ok(root)
}

fn tasks(tensors: &[SourceTensor]) -> Vec<Task> {
    let mut tasks = Vec::new();
    for (tensor, source) in tensors.iter().enumerate() {
        match source.spec.shape {
            TensorShape::Vector { .. } => tasks.push(Task { tensor, first: 0, end: 0 }),
            TensorShape::Matrix { rows, columns } => {
                let (panels, step) = (rows.div_ceil(PANEL_ROWS), (PIECE_BYTES / (PANEL_ROWS * columns)).max(1));
                tasks.extend((0..panels).step_by(step).map(|first| Task { tensor, first, end: (first + step).min(panels) }));
            }
        }
    }
    tasks
}

fn make_pieces<'t>(tensors: &[SourceTensor], tasks: impl Iterator<Item = &'t Task>, send: &SyncSender<Result<Piece, ImportError>>) {
    for Task { tensor, first, end } in tasks {
        let source = &tensors[*tensor];
        let piece = match source.spec.shape {
            TensorShape::Vector { .. } => source.vector().map(Piece::Vector),
            TensorShape::Matrix { rows, columns } => source.panels(rows, columns, *first, *end),
        };
        let failed = piece.is_err();
        // The writer has gone when another piece failed.
        if send.send(piece).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_rows_are_split_into_halves_again() {
        // Two heads of four rows: llama.cpp's order is 0 2 1 3 within a head.
        let spec = TensorSpec::matrix("q", 8, 32);
        let tensor = SourceTensor { spec, kind: QuantType::F32, bytes: &[], interleaved: Some(4) };
        let order: Vec<usize> = (0..8).map(|row| tensor.source_row(row)).collect();
        assert_eq!(order, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
