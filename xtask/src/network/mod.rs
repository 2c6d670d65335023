//! net
pub mod ports;
pub mod process;
