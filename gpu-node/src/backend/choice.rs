//! Which device computes.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::cuda::GpuBackend;
use super::cuda::driver::{CudaDevice, NoDevice};

/// A wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// The first NVIDIA card where one can be used, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA card, or an error.
    Cuda,
}

impl FromStr for BackendKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            other => Err(format!("`{other}` is not one of auto, cpu, cuda")),
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

/// The `[backend]` table: the device, and what is particular to a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackendConfig {
    /// What computes.
    pub device: BackendKind,
    /// Which card, as the driver counts.
    pub card: usize,
    /// Of the card's memory that is free once a model's weights are loaded: so much for its keys and values.
    pub kv_memory_percent: u8,
    /// Prompt tokens in one step on a card, which computes many as fast as few.
    pub prefill_chunk_tokens: usize,
}

impl Default for BackendConfig {
    fn default() -> Self {
        Self { device: BackendKind::Auto, card: 0, kv_memory_percent: 90, prefill_chunk_tokens: 1_024 }
    }
}

impl BackendConfig {
    /// The processor, whatever else is there.
    pub fn cpu() -> Self {
        Self { device: BackendKind::Cpu, ..Self::default() }
    }

    /// The card to compute on; `None` for the processor. Errors when a card is asked for and can't be used.
    pub fn open(&self) -> Result<Option<GpuBackend<CudaDevice>>, NoDevice> {
        if self.device == BackendKind::Cpu {
            return Ok(None);
        }
        let opened = CudaDevice::open(self.card).map(|device| GpuBackend::new(device, f64::from(self.kv_memory_percent) / 100.0));
        match (opened, self.device) {
            (Ok(backend), _) => Ok(Some(backend)),
            (Err(error), BackendKind::Cuda) => Err(error),
            // The ordinary machine without a card.
            (Err(NoDevice::NoDriver), _) => Ok(None),
            (Err(error), _) => {
                tracing::warn!(%error, "the NVIDIA card is not used, the processor computes");
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_card_auto_is_the_processor_and_cuda_an_error() {
        // Numbers so high that no machine has them, so that this holds on one with a card too.
        let with = |device| BackendConfig { device, card: 4_096, ..BackendConfig::default() }.open();
        assert!(matches!(with(BackendKind::Auto), Ok(None)) && matches!(with(BackendKind::Cpu), Ok(None)));
        assert!(with(BackendKind::Cuda).is_err());
    }

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for kind in [BackendKind::Auto, BackendKind::Cpu, BackendKind::Cuda] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("gpu".parse::<BackendKind>().unwrap_err().contains("auto, cpu, cuda"));
    }
}
