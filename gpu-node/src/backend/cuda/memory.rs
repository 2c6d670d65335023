//! What lies in the card's memory: weights, activations, pages, and the inputs of a step.

use super::device::{Device, Fault};
use super::launches::{Places, Quantized, Rows};
use super::plan::{ROWS_ALIGNED, Tiles};
use crate::backend::{BackendError, CacheShape, Placement};
use crate::model::panels::BLOCK;

/// Which of a step's row counts a tensor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// All rows.
    Rows,
    /// Those whose logits are wanted.
    Chosen,
}

/// Weights in the device's form.
pub struct Matrix<D: Device> {
    pub(super) values: D::Memory,
    pub(super) scales: D::Memory,
    pub(super) rows: usize,
}

/// Gains or biases.
pub struct Vector<D: Device>(pub(super) D::Memory);

/// Cosine and sine by position and pair.
pub struct Rope<D: Device> {
    pub(super) cos: D::Memory,
    pub(super) sin: D::Memory,
}

/// Pages of keys and values, one piece.
pub struct Pool<D: Device> {
    pub(super) memory: D::Memory,
    pub(super) shape: CacheShape,
}

/// Memory that grows when a step needs more.
pub(super) struct Grown<D: Device>(Option<D::Memory>);

impl<D: Device> Default for Grown<D> {
    fn default() -> Self {
        Self(None)
    }
}

impl<D: Device> Grown<D> {
    /// At least so many bytes; what stood there is lost when it grows.
    pub(super) fn at_least(&mut self, device: &D, bytes: usize) -> Result<u64, BackendError> {
        if self.0.as_ref().is_none_or(|memory| device.bytes(memory) < bytes) {
            // Given back first: both might not fit.
            self.0 = None;
            self.0 = Some(device.allocate(bytes)?);
        }
        Ok(self.address(device))
    }

    /// 0 before the first use.
    pub(super) fn address(&self, device: &D) -> u64 {
        self.0.as_ref().map_or(0, |memory| device.address(memory))
    }

    pub(super) fn memory(&self) -> Option<&D::Memory> {
        self.0.as_ref()
    }
}

/// Activations: f32 rows, their int8 form, or both.
pub struct Tensor<D: Device> {
    pub(super) width: usize,
    pub(super) rows: usize,
    pub(super) of: Count,
    pub(super) floats: Grown<D>,
    values: Grown<D>,
    scales: Grown<D>,
    /// The int8 form is that of these rows.
    pub(super) is_quantized: bool,
}

impl<D: Device> Tensor<D> {
    pub(super) fn new(width: usize) -> Self {
        let (floats, values, scales) = Default::default();
        Self { width, rows: 0, of: Count::Rows, floats, values, scales, is_quantized: false }
    }

    /// Room for so many rows of f32.
    pub(super) fn float_room(&mut self, device: &D, rows: usize) -> Result<u64, BackendError> {
        self.floats.at_least(device, rows * self.width * size_of::<f32>())
    }

    /// Room for so many rows of int8: whole tiles of the widest product.
    pub(super) fn quantized_room(&mut self, device: &D, rows: usize) -> Result<Quantized, BackendError> {
        let rows = rows.next_multiple_of(ROWS_ALIGNED);
        let values = self.values.at_least(device, rows * self.width)?;
        let scales = self.scales.at_least(device, rows * (self.width / BLOCK) * size_of::<f32>())?;
        Ok(Quantized { values, scales })
    }

    pub(super) fn quantized(&self, device: &D) -> Quantized {
        Quantized { values: self.values.address(device), scales: self.scales.address(device) }
    }
}

/// A step's tokens, places, tables and counts, in one piece so that one copy brings them.
///
/// In words of 4 bytes, with `stride` rows: counts `[4]`, then `[stride]` tokens, positions, table starts, chosen rows, then
/// `[2 · stride]` single tiles and tiles of prompts, then the tables.
pub(super) struct Inputs<D: Device> {
    memory: Grown<D>,
    pub(super) stride: usize,
    pub(super) rows: usize,
    /// Rows whose logits are wanted.
    pub(super) chosen: Vec<usize>,
    pub(super) single: usize,
    pub(super) many: usize,
    /// Most chunks that a row attends to.
    pub(super) chunks: usize,
}

/// What a step is given.
pub(super) struct StepInputs<'a> {
    pub(super) placement: &'a Placement<'a>,
    pub(super) tokens: &'a [u32],
    pub(super) chosen: &'a [usize],
    pub(super) tiles: &'a Tiles,
}

/// Parts of `Inputs`, each `stride` words, after the counts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    Tokens = 0,
    Positions = 1,
    Starts = 2,
    Chosen = 3,
    Single = 4,
    Many = 6,
    Tables = 8,
}

const COUNTS: usize = 4;

impl<D: Device> Inputs<D> {
    pub(super) fn new() -> Self {
        Self { memory: Grown::default(), stride: 0, rows: 0, chosen: Vec::new(), single: 0, many: 0, chunks: 0 }
    }

    /// Brings a step's inputs to the card, for grids of `stride` rows. `reserve` table entries have room, so that addresses stay.
    pub(super) fn write(&mut self, device: &D, stride: usize, step: &StepInputs<'_>, reserve: usize) -> Result<(), InputError> {
        let StepInputs { placement, tokens, chosen, tiles } = step;
        *self = Self {
            memory: std::mem::take(&mut self.memory),
            stride,
            rows: tokens.len(),
            chosen: chosen.to_vec(),
            single: tiles.single.len(),
            many: tiles.many.len(),
            chunks: placement.rows.iter().map(|row| row.position / crate::backend::PAGE_TOKENS + 1).max().unwrap_or(1),
        };
        let mut words = vec![0u32; COUNTS + Part::Tables as usize * stride];
        (words[0], words[1]) = (tokens.len() as u32, chosen.len() as u32);
        let mut put = |part: Part, values: &mut dyn Iterator<Item = u32>| {
            let begin = COUNTS + part as usize * stride;
            words[begin..].iter_mut().zip(values).for_each(|(word, value)| *word = value);
        };
        let starts: Vec<u32> = placement
            .tables
            .iter()
            .scan(0u32, |next, table| {
                let start = *next;
                *next += table.len() as u32;
                Some(start)
            })
            .collect();
        put(Part::Tokens, &mut tokens.iter().copied());
        put(Part::Positions, &mut placement.rows.iter().map(|row| row.position as u32));
        put(Part::Starts, &mut placement.rows.iter().map(|row| starts[row.sequence]));
        put(Part::Chosen, &mut chosen.iter().map(|row| *row as u32));
        put(Part::Single, &mut tiles.single.iter().flat_map(|tile| [tile.first_row as u32, tile.rows as u32]));
        put(Part::Many, &mut tiles.many.iter().flat_map(|tile| [tile.first_row as u32, tile.rows as u32]));
        words.extend(placement.tables.iter().flat_map(|table| table.iter().map(|page| page.0)));

        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let room = bytes.len().max((COUNTS + Part::Tables as usize * stride + reserve) * 4);
        // Powers of two, so that the place stays while tables grow.
        self.memory.at_least(device, room.next_power_of_two())?;
        match self.memory.memory() {
            Some(memory) => Ok(device.write(memory, 0, &bytes)?),
            None => Ok(()),
        }
    }

    /// Other rows of the same step than it was written with.
    pub(super) fn choose(&mut self, device: &D, rows: &[usize]) -> Result<(), Fault> {
        assert!(rows.len() <= self.stride, "rows of the step are chosen, {} of {}", rows.len(), self.stride);
        let Some(memory) = self.memory.memory() else { return Ok(()) };
        let words: Vec<u8> = rows.iter().flat_map(|row| (*row as u32).to_le_bytes()).collect();
        device.write(memory, 4, &(rows.len() as u32).to_le_bytes())?;
        device.write(memory, (COUNTS + Part::Chosen as usize * self.stride) * 4, &words)?;
        self.chosen = rows.to_vec();
        Ok(())
    }

    pub(super) fn address(&self, device: &D, part: Part) -> u64 {
        self.memory.address(device) + ((COUNTS + part as usize * self.stride) * 4) as u64
    }

    pub(super) fn count(&self, device: &D, of: Count) -> Rows {
        let (index, rows) = match of {
            Count::Rows => (0, self.rows),
            Count::Chosen => (1, self.chosen.len()),
        };
        // A recorded grid has room for the whole bucket, whichever rows are chosen.
        let grid = if self.stride > self.rows || rows == self.rows { self.stride } else { rows };
        Rows { count: self.memory.address(device) + index * 4, grid }
    }

    pub(super) fn places(&self, device: &D) -> Places {
        Places {
            positions: self.address(device, Part::Positions),
            starts: self.address(device, Part::Starts),
            tables: self.address(device, Part::Tables),
        }
    }
}

/// Why inputs did not reach the card.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum InputError {
    #[error(transparent)]
    Memory(#[from] BackendError),
    #[error(transparent)]
    Fault(#[from] Fault),
}
