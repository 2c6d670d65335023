//! How matrices are stored: int8 in blocks of 32 along the inner dimension, sixteen rows interleaved.
//!
//! A panel is 16 rows; a block is 32 columns of it. Within a block the bytes stand as `[8][16][4]`: four columns of row 0,
//! the same four of row 1, … of row 15, then the next four columns. So one vector of 64 bytes feeds sixteen dot products, and
//! no sum is ever taken across a vector. Bytes are `q + 128`; scales are f16, `[panel][block][16]`. Rows beyond the last are
//! stored as zeros with scale 0. `docs/numerics.md` section 2 is the normative text.

use half::f16;

/// Columns under one scale.
pub const BLOCK: usize = 32;
/// Rows of a panel.
pub const PANEL_ROWS: usize = 16;
/// Bytes of one block of a panel.
pub const BLOCK_BYTES: usize = BLOCK * PANEL_ROWS;
/// What is added to a stored value, so that it is a byte without sign.
pub const OFFSET: u8 = 128;

/// Why values can't be stored.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum QuantizeError {
    #[error("row {row} has the value {value} in column {column}; weights must be finite")]
    NotFinite { row: usize, column: usize, value: f32 },
    #[error("row {row} has the value {value} near column {column}; above {limit} it has no scale", limit = SCALE_MAX * 127.0)]
    TooLarge { row: usize, column: usize, value: f32 },
}

/// Greatest finite f16.
const SCALE_MAX: f32 = 65_504.0;

/// One row's block as it is stored: `w ≈ scale · q`, q in −127..=127.
///
/// `scale` is amax / 127 rounded to f16, to nearest, ties to even; `q` is w / scale rounded to nearest, ties to even, kept
/// within ±127. A block whose scale rounds to 0 is all zeros.
pub fn quantize_block(values: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    let amax = values.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let scale = f16::from_f32(amax / 127.0);
    let divisor = scale.to_f32();
    if divisor == 0.0 {
        return (f16::ZERO, [0; BLOCK]);
    }
    (scale, values.map(|x| (x / divisor).round_ties_even().clamp(-127.0, 127.0) as i8))
}

/// Bytes that `rows × columns` take: values, scales.
pub fn panel_bytes(rows: usize, columns: usize) -> (usize, usize) {
    let panels = rows.div_ceil(PANEL_ROWS);
    (panels * PANEL_ROWS * columns, panels * PANEL_ROWS * (columns / BLOCK) * 2)
}

/// One panel while it is filled, row by row.
pub struct PanelBuilder {
    columns: usize,
    values: Vec<u8>,
    scales: Vec<u8>,
}

impl PanelBuilder {
    /// An empty panel; `columns` is a multiple of 32.
    pub fn new(columns: usize) -> Self {
        debug_assert!(columns.is_multiple_of(BLOCK));
        let (values, scales) = panel_bytes(1, columns);
        Self { columns, values: vec![OFFSET; values], scales: vec![0; scales] }
    }

    /// Quantises a row of f32 into its lane. `row` is the row's number in the matrix, for errors.
    pub fn set_row(&mut self, row: usize, elements: &[f32]) -> Result<(), QuantizeError> {
        for (index, block) in elements.as_chunks::<BLOCK>().0.iter().enumerate() {
            if let Some(at) = block.iter().position(|x| !x.is_finite()) {
                return Err(QuantizeError::NotFinite { row, column: index * BLOCK + at, value: block[at] });
            }
            let (scale, quantized) = quantize_block(block);
            if !scale.is_finite() {
                let value = block.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or_default();
                return Err(QuantizeError::TooLarge { row, column: index * BLOCK, value });
            }
            self.set_block(row, index, scale, quantized);
        }
        Ok(())
    }

    /// Stores one block as it is, for sources that have the same blocks already.
    pub fn set_block(&mut self, row: usize, block: usize, scale: f16, quantized: [i8; BLOCK]) {
        let lane = row % PANEL_ROWS;
        for (step, four) in quantized.as_chunks::<4>().0.iter().enumerate() {
            let at = block * BLOCK_BYTES + (step * PANEL_ROWS + lane) * 4;
            self.values[at..at + 4].copy_from_slice(&four.map(|q| q.cast_unsigned() ^ OFFSET));
        }
        let at = (block * PANEL_ROWS + lane) * 2;
        self.scales[at..at + 2].copy_from_slice(&scale.to_le_bytes());
    }

    /// Values and scales as they are stored; the builder is empty again.
    pub fn take(&mut self) -> (Vec<u8>, Vec<u8>) {
        let empty = Self::new(self.columns);
        let full = std::mem::replace(self, empty);
        (full.values, full.scales)
    }
}

/// Values and scales of a whole matrix, row-major f32 in.
pub fn quantize(elements: &[f32], columns: usize) -> Result<(Vec<u8>, Vec<u8>), QuantizeError> {
    let (mut values, mut scales) = (Vec::new(), Vec::new());
    let mut panel = PanelBuilder::new(columns);
    for (index, rows) in elements.chunks(columns * PANEL_ROWS).enumerate() {
        for (lane, row) in rows.chunks(columns).enumerate() {
            panel.set_row(index * PANEL_ROWS + lane, row)?;
        }
        let (v, s) = panel.take();
        values.extend(v);
        scales.extend(s);
    }
    Ok((values, scales))
}

/// A stored matrix: `rows` of the true height, bytes of whole panels.
#[derive(Clone, Copy)]
pub struct Panels<'a> {
    pub rows: usize,
    pub columns: usize,
    pub values: &'a [u8],
    pub scales: &'a [u8],
}

impl Panels<'_> {
    /// Appends row `row` as f32: `scale · q`, one rounding.
    pub fn widen_row(&self, row: usize, out: &mut Vec<f32>) {
        let blocks = self.columns / BLOCK;
        let (panel, lane) = (row / PANEL_ROWS, row % PANEL_ROWS);
        for block in panel * blocks..(panel + 1) * blocks {
            let at = (block * PANEL_ROWS + lane) * 2;
            let scale = f16::from_le_bytes([self.scales[at], self.scales[at + 1]]).to_f32();
            for step in 0..BLOCK / 4 {
                let at = block * BLOCK_BYTES + (step * PANEL_ROWS + lane) * 4;
                out.extend(self.values[at..at + 4].iter().map(|q| scale * f32::from((q ^ OFFSET).cast_signed())));
            }
        }
    }

    /// The whole matrix, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.rows * self.columns);
        (0..self.rows).for_each(|row| self.widen_row(row, &mut out));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sixteen_rows_stand_side_by_side_in_fours() {
        let (rows, columns) = (17, 64);
        let elements: Vec<f32> = (0..rows * columns).map(|i| (i % 128) as f32 - 64.0).collect();
        let (values, scales) = quantize(&elements, columns).unwrap();
        assert_eq!((values.len(), scales.len()), panel_bytes(rows, columns));
        let panels = Panels { rows, columns, values: &values, scales: &scales };
        // Row 3, column 37: block 1, step 1, lane 3, byte 1.
        let q = (values[BLOCK_BYTES + (PANEL_ROWS + 3) * 4 + 1] ^ OFFSET).cast_signed();
        let scale = f16::from_le_bytes([scales[(PANEL_ROWS + 3) * 2], scales[(PANEL_ROWS + 3) * 2 + 1]]).to_f32();
        assert_eq!(f32::from(q) * scale, panels.to_f32()[3 * columns + 37]);
        // Lanes beyond the last row hold zeros.
        assert_eq!(values[2 * BLOCK_BYTES + 4], OFFSET);
    }

    #[test]
    fn what_has_no_scale_is_refused_by_place() {
        let mut row = vec![0.5f32; 64];
        row[40] = f32::NAN;
        assert!(matches!(quantize(&row, 64), Err(QuantizeError::NotFinite { row: 0, column: 40, .. })));
        row[40] = 1e30;
        assert!(matches!(quantize(&row, 64), Err(QuantizeError::TooLarge { row: 0, column: 32, .. })));
    }

    proptest! {
        #[test]
        fn stored_values_are_within_half_a_step(values in proptest::collection::vec(-8.0f32..8.0, BLOCK)) {
            let block: [f32; BLOCK] = values.try_into().unwrap();
            let (scale, quantized) = quantize_block(&block);
            let scale = scale.to_f32();
            for (x, q) in block.iter().zip(quantized) {
                // Half a step, and what rounding the scale to f16 takes from the ends of the range.
                prop_assert!((x - scale * f32::from(q)).abs() <= scale * 0.57, "{x} as {q} × {scale}");
            }
        }

        #[test]
        fn quantising_what_was_quantised_changes_nothing(values in proptest::collection::vec(-1.0f32..1.0, BLOCK)) {
            let block: [f32; BLOCK] = values.try_into().unwrap();
            let (scale, quantized) = quantize_block(&block);
            let again = quantized.map(|q| scale.to_f32() * f32::from(q));
            if quantized.iter().any(|q| q.abs() == 127) {
                prop_assert_eq!(quantize_block(&again), (scale, quantized));
            }
        }
    }
}
