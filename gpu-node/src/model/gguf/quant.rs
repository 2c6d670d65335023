//! Storage types of GGUF tensors and their exact meaning as f32.
//!
//! Source: `ggml-quants.c` in ggml-org/ggml. Blocks of 32 elements with f16 scales; in the 4-bit types the low nibbles
//! are the first 16 elements and the high nibbles the other 16.

use half::f16;

const BLOCK: usize = 32;

/// How a tensor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantType {
    F32,
    F16,
    /// `d · (q − 8)`, q in 0..16.
    Q4_0,
    /// `d · q + m`, q in 0..16.
    Q4_1,
    /// `d · q`, q in −128..128.
    Q8_0,
}

impl QuantType {
    pub fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            8 => Self::Q8_0,
            _ => return None,
        })
    }

    pub fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q8_0 => BLOCK,
        }
    }

    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::Q4_0 => 2 + BLOCK / 2,
            Self::Q4_1 => 4 + BLOCK / 2,
            Self::Q8_0 => 2 + BLOCK,
        }
    }

    /// Appends the elements of whole blocks to `out`; a rest shorter than a block is ignored.
    pub fn dequantize(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
            Self::F16 => out.extend(bytes.as_chunks::<2>().0.iter().map(|b| scale(*b))),
            Self::Q4_0 => bytes.as_chunks::<18>().0.iter().for_each(|block| {
                let [d0, d1, quants @ ..] = block;
                let d = scale([*d0, *d1]);
                nibbles(quants, out, |q| (f32::from(q) - 8.0) * d);
            }),
            Self::Q4_1 => bytes.as_chunks::<20>().0.iter().for_each(|block| {
                let [d0, d1, m0, m1, quants @ ..] = block;
                let (d, m) = (scale([*d0, *d1]), scale([*m0, *m1]));
                nibbles(quants, out, |q| f32::from(q) * d + m);
            }),
            Self::Q8_0 => bytes.as_chunks::<34>().0.iter().for_each(|block| {
                let [d0, d1, quants @ ..] = block;
                let d = scale([*d0, *d1]);
                out.extend(quants.iter().map(|q| f32::from(q.cast_signed()) * d));
            }),
        }
    }
}

fn scale(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

fn nibbles(quants: &[u8; 16], out: &mut Vec<f32>, element: impl Fn(u8) -> f32) {
    out.extend(quants.iter().map(|b| element(b & 15)));
    out.extend(quants.iter().map(|b| element(b >> 4)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: QuantType, head: &[f32], quants: &[u8]) -> Vec<f32> {
        let mut bytes: Vec<u8> = head.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        bytes.extend(quants);
        assert_eq!(bytes.len(), kind.block_bytes());
        let mut out = Vec::new();
        kind.dequantize(&bytes, &mut out);
        assert_eq!(out.len(), kind.block_elements());
        out
    }

    #[test]
    fn nibble_order_scale_and_offset_are_ggmls() {
        let quants: Vec<u8> = (0..16).map(|i| i | ((15 - i) << 4)).collect();
        let q4_1 = block(QuantType::Q4_1, &[0.5, -1.0], &quants);
        assert_eq!((q4_1[0], q4_1[15], q4_1[16], q4_1[31]), (-1.0, 6.5, 6.5, -1.0));
        let q4_0 = block(QuantType::Q4_0, &[2.0], &quants);
        assert_eq!((q4_0[0], q4_0[15], q4_0[16]), (-16.0, 14.0, 14.0));
    }

    #[test]
    fn q8_0_is_signed() {
        let quants: Vec<u8> = (0..32).map(|i: i8| (-i).cast_unsigned()).collect();
        let out = block(QuantType::Q8_0, &[0.25], &quants);
        assert_eq!((out[0], out[1], out[31]), (0.0, -0.25, -7.75));
    }
}
