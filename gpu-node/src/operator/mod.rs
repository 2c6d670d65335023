//! The operator's command line, one file per subcommand.

pub mod bench;
mod chain;
pub mod device;
pub mod doctor;
mod exit;
pub mod generate;
pub mod init;
pub mod key;
mod machine;
pub mod model;
pub mod perplexity;
mod progress;
pub mod register;
pub mod run;
pub mod status;
pub mod verify;
mod verify_bench;

use std::fmt::Display;
use std::future::Future;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;

pub use exit::Problem;

/// Which config file.
#[derive(Clone, Debug, clap::Args)]
pub struct ConfigFlag {
    /// Config file, made by `gpu-node init`
    #[arg(long, value_name = "FILE", default_value = crate::config::DEFAULT_PATH)]
    pub config: PathBuf,
}

/// Runs a command's asynchronous part. The engine computes on threads of its own, so two are plenty here.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    daemon::install_tls();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(future);
    // A model that is still being loaded when the operator says stop is not waited for.
    runtime.shutdown_background();
    result
}

/// Writes one line of result to standard output. A reader that has gone away, such as `head`, is no error.
fn print_line(line: impl Display) -> io::Result<()> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
