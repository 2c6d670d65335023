//! `gpu-node key`: the encrypted keys of node and operator.

use std::process::ExitCode;

use clap::Args;
use daemon::keystore::KeyCommand;

use super::print_line;

/// Make, import and name encrypted keys
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  gpu-node key new --out node-key.json --password-file node-key.password
  gpu-node key import --out owner.json --password-file owner.password --secret-file owner.hex
  gpu-node key address node-key.json

No flag takes a key or a password: they stand in files that only their owner can read (mode 0600).")]
pub struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

impl KeyArgs {
    /// Prints the key's address on standard output.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        print_line(self.command.run()?)?;
        Ok(ExitCode::SUCCESS)
    }
}
