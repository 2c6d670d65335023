//! What this machine has.

/// Memory of the machine, bytes; zeros where the system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total_bytes: u64,
    pub(super) available_bytes: u64,
}

impl Memory {
    /// As the system has it now.
    pub(super) fn now() -> Self {
        std::fs::read_to_string("/proc/meminfo").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        let kib = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let bytes = |name| kib(name).unwrap_or(0).saturating_mul(1_024);
        Self { total_bytes: bytes("MemTotal:"), available_bytes: bytes("MemAvailable:") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_what_linux_says() {
        let memory = Memory::parse("MemTotal:       100 kB\nMemFree: 1 kB\nMemAvailable:     40 kB\n");
        assert_eq!(memory, Memory { total_bytes: 102_400, available_bytes: 40_960 });
        assert_eq!(Memory::parse("MemTotal: many"), Memory::default());
    }
}
