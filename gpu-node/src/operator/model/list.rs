//! `gpu-node model list`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::MODELS_DIR;
use crate::model::{Listed, State, inventory};
use crate::operator::print_line;

/// List the model folders inside a folder
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  gpu-node model list
  gpu-node model list /srv/models --json

Reads manifests and configurations, not weights; `gpu-node model verify` reads those.")]
pub(super) struct ListArgs {
    /// Folder that holds model folders
    #[arg(default_value = MODELS_DIR)]
    dir: PathBuf,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

impl ListArgs {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let models = inventory(&self.dir).with_context(|| format!("{} can't be read; name a folder of models", self.dir.display()))?;
        if self.json {
            print_line(serde_json::to_string_pretty(&models)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        if models.is_empty() {
            eprintln!("no models in {}; make one with `gpu-node model pull` or `gpu-node model import`", self.dir.display());
        }
        for model in &models {
            print_line(line_of(model))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn line_of(model: &Listed) -> String {
    let Listed { name, state, manifest, weight_bytes, context_tokens, .. } = model;
    match (state, manifest) {
        (State::Ready, Some(manifest)) => {
            let context = context_tokens.unwrap_or_default();
            format!(
                "{name}  {:.1} MB  context {context}  {}  from {}",
                *weight_bytes as f64 / 1e6,
                manifest.model_root,
                manifest.source_name
            )
        }
        (State::Damaged(reason), _) => format!("{name}  damaged: {reason}"),
        _ => format!("{name}  of an older layout; import it again, its folder is replaced"),
    }
}
