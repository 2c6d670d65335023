//! `gpu-node model rm`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::model::Removal;
use crate::operator::{Problem, print_line};

/// Remove a model folder
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  gpu-node model rm models/smollm2-135m-instruct --dry-run
  gpu-node model rm models/smollm2-135m-instruct
  gpu-node model rm models/smollm2-135m-instruct --yes --json

Removes only folders that an import made and that hold nothing else. A node that serves the model keeps it until it stops.
Exit codes: 0 removed, 1 failed, 3 not confirmed.")]
pub(super) struct RmArgs {
    /// Folder made by `import` or `pull`
    dir: PathBuf,
    /// Show what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl RmArgs {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let removal = Removal::of(&self.dir)?;
        let (path, files, bytes) = (removal.path().to_owned(), removal.files, removal.bytes);
        let what = format!("{}: {files} files, {:.1} MB", path.display(), bytes as f64 / 1e6);
        if !self.dry_run {
            if !self.yes && !confirmed(&what)? {
                return Err(Problem::NeedsAction("not removed".into()).into());
            }
            removal.run()?;
        }
        if self.json {
            print_line(json!({"v": 1, "path": path, "files": files, "bytes": bytes, "removed": !self.dry_run}))?;
        } else {
            print_line(format_args!("{} {what}", if self.dry_run { "would remove" } else { "removed" }))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn confirmed(what: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Problem::NeedsAction("there is no terminal to ask at; look with --dry-run, then give --yes".into()).into());
    }
    eprint!("remove {what}? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
