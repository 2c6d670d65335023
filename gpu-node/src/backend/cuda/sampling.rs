//! Draws on the card: what `sample.cu` is given and gives.

use super::device::Device;
use super::launches;
use super::memory::{Count, Grown};
use super::operations::bytes_of;
use super::{GpuBackend, Tensor};
use crate::backend::{BackendError, Change, Draw, Found};

/// Bytes of `Draw` and `Change` in `sample.cu`.
const DRAW_BYTES: usize = 40;
const CHANGE_BYTES: usize = 16;
/// Of its `Found`.
const TOKEN: u32 = 1;
const OPEN: u32 = 2;
/// What is told and found takes so much at least. Growing moves memory, after which recordings are made anew.
const ROOM_MIN_BYTES: usize = 64 << 10;

/// Draws with their changes, and what came of them.
pub(super) struct Samples<D: Device> {
    told: Grown<D>,
    found: Grown<D>,
}

impl<D: Device> Default for Samples<D> {
    fn default() -> Self {
        Self { told: Grown::default(), found: Grown::default() }
    }
}

impl<D: Device> GpuBackend<D> {
    /// Rows of `width` numbers on the card.
    pub fn upload_rows(&self, rows: &[f32], width: usize) -> Result<Tensor<D>, BackendError> {
        let mut tensor = Tensor::new(width);
        (tensor.rows, tensor.of) = (rows.len() / width, Count::Rows);
        tensor.float_room(&self.device, tensor.rows)?;
        match tensor.floats.memory() {
            Some(memory) => self.device.write(memory, 0, &bytes_of(rows)).map_err(|fault| BackendError::Device(fault.0))?,
            None => assert!(rows.is_empty(), "room was made"),
        }
        Ok(tensor)
    }

    /// What `sample.cu` finds; every row is open where the card has no room to be told.
    pub(super) fn sample(&mut self, logits: &Tensor<D>, draws: &[Option<Draw>], out: &mut Vec<Found>) {
        assert_eq!(draws.len(), logits.rows, "one draw a row");
        let told = told(draws);
        let mut bytes = vec![0u8; 8 * draws.len()];
        let places = self.samples.room(&self.device, told.len(), bytes.len());
        if matches!(places, Err(BackendError::OutOfMemory { .. })) {
            out.extend(draws.iter().map(|_| Found::Open));
            return;
        }
        if let Some((at, found)) = self.sound(places)
            && let Some(memory) = self.samples.told.memory()
            && self.sound(self.device.write(memory, 0, &told)).is_some()
        {
            let changes = at + changes_begin(draws.len()) as u64;
            let from = logits.floats.address(&self.device);
            self.start(&launches::sample(from, logits.rows, logits.width, at, changes, found));
            self.read_into(&self.samples.found, 0, &mut bytes);
        }
        let words = bytes.as_chunks::<4>().0.as_chunks::<2>().0;
        for [token, state] in words.iter().map(|pair| pair.map(u32::from_le_bytes)) {
            if state == TOKEN && token as usize >= logits.width {
                self.fail(format!("it drew token {token} of {}", logits.width));
            }
            out.push(match state {
                TOKEN => Found::Token(token),
                OPEN => Found::Open,
                _ => Found::NotFinite,
            });
        }
    }
}

impl<D: Device> Samples<D> {
    /// Addresses of what is told and of what is found.
    fn room(&mut self, device: &D, told_bytes: usize, found_bytes: usize) -> Result<(u64, u64), BackendError> {
        let bytes = |wanted: usize| wanted.next_power_of_two().max(ROOM_MIN_BYTES);
        Ok((self.told.at_least(device, bytes(told_bytes))?, self.found.at_least(device, bytes(found_bytes))?))
    }
}

/// Where changes begin behind so many draws.
fn changes_begin(draws: usize) -> usize {
    (draws * DRAW_BYTES).next_multiple_of(CHANGE_BYTES)
}

/// `Draw`s, and the `Change`s of all of them behind.
fn told(draws: &[Option<Draw>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(changes_begin(draws.len()));
    let mut next = 0u32;
    for draw in draws {
        let Some(draw) = draw else {
            bytes.extend([0u8; DRAW_BYTES]);
            continue;
        };
        let floats = [draw.temperature, draw.top_p, draw.min_p, draw.repetition_penalty];
        bytes.extend(floats.iter().flat_map(|number| number.to_le_bytes()));
        let count = draw.changes.len() as u32;
        bytes.extend([draw.top_k, next, count, 1].iter().flat_map(|number| number.to_le_bytes()));
        bytes.extend(draw.uniform.to_le_bytes());
        next += count;
    }
    bytes.resize(changes_begin(draws.len()), 0);
    bytes.extend(draws.iter().flatten().flat_map(|draw| &draw.changes).flat_map(change_bytes));
    bytes
}

fn change_bytes(change: &Change) -> [u8; CHANGE_BYTES] {
    let kinds = u32::from(change.is_repeated) | u32::from(change.minus.is_some()) << 1 | u32::from(change.bias.is_some()) << 2;
    let (minus, bias) = (change.minus.unwrap_or(0.0), change.bias.unwrap_or(0.0));
    let mut bytes = [0u8; CHANGE_BYTES];
    for (to, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip([change.token, kinds, minus.to_bits(), bias.to_bits()]) {
        *to = word.to_le_bytes();
    }
    bytes
}
