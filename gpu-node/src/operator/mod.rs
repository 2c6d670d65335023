//! The operator's command line, one file per subcommand.

pub mod bench;
pub mod generate;
pub mod model;
mod progress;
