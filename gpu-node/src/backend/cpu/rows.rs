//! What is done to one row: norms, biases, rotation.
#![allow(unsafe_code)] // Plain loops, compiled for an instruction set that the caller promises.

use super::isa::dispatch;
use super::lanes::Lanes;
use super::math;
use crate::backend::{BackendError, RopeShape};
use crate::model::RopeScaling;

/// Cosine and sine by position and pair, f64 rounded to f32.
pub struct Rope {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl Rope {
    /// Angles `position · frequency`. Powers, cosines and sines are those of the `libm` crate, the same bits on every machine.
    pub(crate) fn new(shape: RopeShape, positions: usize) -> Result<Self, BackendError> {
        let half = shape.head_dim / 2;
        let frequencies: Vec<f64> = (0..half).map(|pair| frequency(shape, pair)).collect();
        let (mut cos, mut sin) = (super::reserved(half * positions)?, super::reserved(half * positions)?);
        for position in 0..positions {
            for frequency in &frequencies {
                let angle = position as f64 * frequency;
                cos.push(libm::cos(angle) as f32);
                sin.push(libm::sin(angle) as f32);
            }
        }
        Ok(Self { cos, sin, half })
    }

    /// Cosines and sines, `[positions × head_dim / 2]`.
    pub(crate) fn tables(&self) -> (&[f32], &[f32]) {
        (&self.cos, &self.sin)
    }

    pub(super) fn at(&self, position: usize) -> Angles<'_> {
        let range = position * self.half..(position + 1) * self.half;
        Angles { cos: &self.cos[range.clone()], sin: &self.sin[range] }
    }
}

/// One pair's frequency, scaled as the model's configuration says.
fn frequency(shape: RopeShape, pair: usize) -> f64 {
    let base = 1.0 / libm::pow(shape.theta, (2 * pair) as f64 / shape.head_dim as f64);
    match shape.scaling {
        RopeScaling::None => base,
        RopeScaling::Linear { factor } => base / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_tokens } => {
            let wavelength = 2.0 * std::f64::consts::PI / base;
            if wavelength > original_context_tokens / low_freq_factor {
                base / factor
            } else if wavelength < original_context_tokens / high_freq_factor {
                base
            } else {
                let smooth = (original_context_tokens / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * base / factor + smooth * base
            }
        }
    }
}

/// Of one position.
#[derive(Clone, Copy)]
pub(super) struct Angles<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
}

/// What is done to one row's queries or keys, in this order.
#[derive(Clone, Copy)]
pub(super) struct Turn<'a> {
    pub(super) bias: Option<&'a [f32]>,
    /// Gain and epsilon of the norm of each head.
    pub(super) norm: Option<(&'a [f32], f32)>,
    pub(super) angles: Angles<'a>,
    /// 1 for keys, 1/√head_dim for queries.
    pub(super) scale: f32,
}

dispatch! {
    /// Bias, norm of each head, rotation of pairs `(i, i + head_dim / 2)`, scale.
    ///
    /// # Safety
    /// `isa` is available.
    pub(super) unsafe fn turn = turn_heads(row: &mut [f32], turn: Turn<'_>)
}

#[inline(always)]
unsafe fn turn_heads<L: Lanes>(row: &mut [f32], turn: Turn<'_>) {
    if let Some(bias) = turn.bias {
        row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
    }
    let Angles { cos, sin } = turn.angles;
    let half = cos.len();
    for head in row.chunks_exact_mut(2 * half) {
        if let Some((gain, eps)) = turn.norm {
            let before: [f32; crate::model::MAX_HEAD_DIM] = std::array::from_fn(|i| head.get(i).copied().unwrap_or_default());
            math::norm(&before[..2 * half], gain, eps, head);
        }
        let (low, high) = head.split_at_mut(half);
        for (((a, b), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
            let (x, y) = (*a, *b);
            *a = (x * cos - y * sin) * turn.scale;
            *b = (y * cos + x * sin) * turn.scale;
        }
    }
}

dispatch! {
    /// Adds a bias to a row that is not rotated.
    ///
    /// # Safety
    /// `isa` is available.
    pub(super) unsafe fn add_bias = add_row(row: &mut [f32], bias: &[f32])
}

#[inline(always)]
unsafe fn add_row<L: Lanes>(row: &mut [f32], bias: &[f32]) {
    row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
}

dispatch! {
    /// `x / sqrt(mean(x²) + eps) · gain`.
    ///
    /// # Safety
    /// `isa` is available.
    pub(super) unsafe fn norm = norm_row(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32])
}

#[inline(always)]
unsafe fn norm_row<L: Lanes>(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    math::norm(x, gain, eps, out);
}
