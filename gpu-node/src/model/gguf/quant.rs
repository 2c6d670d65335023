//! Storage types of tensors and their exact meaning as f32.
//!
//! Source: `ggml-quants.c` in ggml-org/ggml. Types are blocks of 32 elements with f16 scales, or super-blocks of 256 whose
//! sub-blocks have small whole scales of their own. Sums and products are rounded one by one, in the order of the source;
//! `test/vectors/gguf_dequant.json` pins the bits.

use half::{bf16, f16};

/// Elements of a simple block and of a super-block.
const BLOCK: usize = 32;
const SUPER_BLOCK: usize = 256;

/// How a tensor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantType {
    F32,
    F16,
    Bf16,
    /// `d · (q − 8)`, q in 0..16.
    Q4_0,
    /// `d · q + m`, q in 0..16.
    Q4_1,
    /// `d · (q − 16)`, q in 0..32.
    Q5_0,
    /// `d · q + m`, q in 0..32.
    Q5_1,
    /// `d · q`, q in −128..128.
    Q8_0,
    /// `d · s · q − e · m`, q in 0..16; s and m of six bits for every 32 elements.
    Q4K,
    /// The same with q in 0..32.
    Q5K,
    /// `d · s · (q − 32)`, q in 0..64; s of eight bits for every 16 elements.
    Q6K,
}

/// Names of the types, for errors.
pub const IMPORTED_TYPES: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K";

impl QuantType {
    /// The type with this `ggml_type` number.
    pub fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    pub fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => BLOCK,
            Self::Q4K | Self::Q5K | Self::Q6K => SUPER_BLOCK,
        }
    }

    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 2 + BLOCK / 2,
            Self::Q4_1 => 4 + BLOCK / 2,
            Self::Q5_0 => 2 + 4 + BLOCK / 2,
            Self::Q5_1 => 4 + 4 + BLOCK / 2,
            Self::Q8_0 => 2 + BLOCK,
            Self::Q4K => 4 + 12 + SUPER_BLOCK / 2,
            Self::Q5K => 4 + 12 + SUPER_BLOCK / 8 + SUPER_BLOCK / 2,
            Self::Q6K => SUPER_BLOCK / 2 + SUPER_BLOCK / 4 + 16 + 2,
        }
    }

    /// Appends the elements of whole blocks to `out`; a rest shorter than a block is ignored.
    pub fn dequantize(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
            Self::F16 => out.extend(bytes.as_chunks::<2>().0.iter().map(|b| scale(*b))),
            Self::Bf16 => out.extend(bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
            Self::Q4_0 => bytes.as_chunks::<18>().0.iter().for_each(|[d0, d1, quants @ ..]| {
                let d = scale([*d0, *d1]);
                nibbles(quants, 0, out, |q| (f32::from(q) - 8.0) * d);
            }),
            Self::Q4_1 => bytes.as_chunks::<20>().0.iter().for_each(|[d0, d1, m0, m1, quants @ ..]| {
                let (d, m) = (scale([*d0, *d1]), scale([*m0, *m1]));
                nibbles(quants, 0, out, |q| f32::from(q) * d + m);
            }),
            Self::Q5_0 => bytes.as_chunks::<22>().0.iter().for_each(|[d0, d1, h0, h1, h2, h3, quants @ ..]| {
                let d = scale([*d0, *d1]);
                nibbles(quants, u32::from_le_bytes([*h0, *h1, *h2, *h3]), out, |q| (f32::from(q) - 16.0) * d);
            }),
            Self::Q5_1 => bytes.as_chunks::<24>().0.iter().for_each(|[d0, d1, m0, m1, h0, h1, h2, h3, quants @ ..]| {
                let (d, m) = (scale([*d0, *d1]), scale([*m0, *m1]));
                nibbles(quants, u32::from_le_bytes([*h0, *h1, *h2, *h3]), out, |q| f32::from(q) * d + m);
            }),
            Self::Q8_0 => bytes.as_chunks::<34>().0.iter().for_each(|block| {
                let (d, quants) = q8_0_block(block);
                out.extend(quants.iter().map(|q| f32::from(*q) * d.to_f32()));
            }),
            Self::Q4K => bytes.as_chunks::<144>().0.iter().for_each(|block| {
                let (head, quants) = block.split_at(16);
                k_blocks(head, &[0; 32], quants, out);
            }),
            Self::Q5K => bytes.as_chunks::<176>().0.iter().for_each(|block| {
                let (head, rest) = block.split_at(16);
                let (high, quants) = rest.split_at(32);
                k_blocks(head, high, quants, out);
            }),
            Self::Q6K => bytes.as_chunks::<210>().0.iter().for_each(|block| q6_k(block, out)),
        }
    }
}

/// Scale and values of one block of Q8_0.
pub fn q8_0_block(block: &[u8; 34]) -> (f16, [i8; BLOCK]) {
    let [d0, d1, quants @ ..] = block;
    (f16::from_le_bytes([*d0, *d1]), quants.map(u8::cast_signed))
}

fn scale(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

/// Low nibbles are the first 16 elements, high nibbles the other 16; bit `i` of `fifth` is the fifth bit of element `i`.
fn nibbles(quants: &[u8; 16], fifth: u32, out: &mut Vec<f32>, element: impl Fn(u8) -> f32) {
    let bit = |index: usize| ((fifth >> index & 1) << 4) as u8;
    out.extend(quants.iter().enumerate().map(|(i, b)| element(b & 15 | bit(i))));
    out.extend(quants.iter().enumerate().map(|(i, b)| element(b >> 4 | bit(i + 16))));
}

/// Q4_K and Q5_K: `head` is d, e and twelve bytes of sub-block scales; byte `i` of `high` holds the fifth bits of element
/// `i` of every sub-block. Sub-blocks come in pairs that share 32 bytes of nibbles.
fn k_blocks(head: &[u8], high: &[u8], quants: &[u8], out: &mut Vec<f32>) {
    let [d0, d1, e0, e1, packed @ ..] = head else { return };
    let (d, e) = (scale([*d0, *d1]), scale([*e0, *e1]));
    for (pair, nibbles) in quants.as_chunks::<32>().0.iter().enumerate() {
        for half in 0..2 {
            let sub_block = pair * 2 + half;
            let (s, m) = six_bits(packed, sub_block);
            let (step, offset) = (d * f32::from(s), e * f32::from(m));
            out.extend(nibbles.iter().zip(high).map(|(nibble, high)| {
                let q = (nibble >> (4 * half) & 15) | (high >> sub_block & 1) << 4;
                step * f32::from(q) - offset
            }));
        }
    }
}

/// Scale and offset of sub-block `index` out of twelve bytes: the first four of each stand in six bits, the upper two bits of
/// the same bytes complete the other four.
fn six_bits(packed: &[u8], index: usize) -> (u8, u8) {
    let byte = |i: usize| packed.get(i).copied().unwrap_or_default();
    match index {
        0..4 => (byte(index) & 63, byte(index + 4) & 63),
        _ => (byte(index + 4) & 15 | byte(index - 4) >> 6 << 4, byte(index + 4) >> 4 | byte(index) >> 6 << 4),
    }
}

/// 128 bytes of low nibbles, 64 of upper bit pairs, 16 signed scales, d. Each half of 128 elements is four runs of 32.
fn q6_k(block: &[u8; 210], out: &mut Vec<f32>) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = scale([d[0], d[1]]);
    for (half, (low, high)) in low.chunks(64).zip(high.chunks(32)).enumerate() {
        for run in 0..4 {
            let nibbles = &low[run % 2 * 32..][..32];
            out.extend((0..32).map(|i| {
                let q = (nibbles[i] >> (run / 2 * 4) & 15) | (high[i] >> (2 * run) & 3) << 4;
                let s = scales[half * 8 + run * 2 + i / 16].cast_signed();
                d * f32::from(s) * (f32::from(q) - 32.0)
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Vector {
        code: u32,
        blocks: String,
        /// Bits of every element, from the `gguf` package's numpy code.
        elements: Vec<u32>,
    }

    #[test]
    fn every_type_means_what_the_gguf_package_says_bit_for_bit() {
        let text = include_str!("../../../../test/vectors/gguf_dequant.json");
        let vectors: Vec<Vector> = serde_json::from_str(text).unwrap();
        let mut seen: Vec<u32> = vectors.iter().map(|v| v.code).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, (0..64).filter(|code| QuantType::from_code(*code).is_some()).collect::<Vec<_>>(), "a type has no vector");
        for Vector { code, blocks, elements } in vectors {
            let kind = QuantType::from_code(code).unwrap();
            let bytes = alloy::hex::decode(blocks).unwrap();
            assert_eq!(bytes.len() % kind.block_bytes(), 0, "{kind:?}");
            let mut out = Vec::new();
            kind.dequantize(&bytes, &mut out);
            let bits: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
            assert_eq!(bits, elements, "{kind:?}");
        }
    }
}
