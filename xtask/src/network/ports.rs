//! Ports on loopback: the well-known ones when they are free, else any; the same ones at every start.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result, bail};

use crate::secret;

/// Below the range from which systems take the ports of outgoing connections, so that a port that was free a moment ago
/// is not taken by somebody's request.
const RANGE: std::ops::Range<u16> = 20_000..32_000;
const TRIES: u32 = 200;

/// Whether nobody listens on `port`.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A port where nobody listens.
pub fn free_port() -> Result<u16> {
    for _ in 0..TRIES {
        let random = u16::from_str_radix(&secret::random_hex(2)?, 16).context("two bytes are four hex digits")?;
        let port = RANGE.start + random % (RANGE.end - RANGE.start);
        if is_free(port) {
            return Ok(port);
        }
    }
    bail!("found no free port between {} and {} in {TRIES} tries", RANGE.start, RANGE.end)
}

/// `preferred` when it is free, else another one.
pub fn free_port_near(preferred: u16) -> Result<u16> {
    if is_free(preferred) { Ok(preferred) } else { free_port() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_avoided() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(!is_free(port));
        assert_ne!(free_port_near(port).unwrap(), port);
    }
}
