//! How many tests a runner ran, read from the summary that it prints.

/// Counts of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Ended well.
    pub passed: u64,
    /// Failed, timed out or could not be started.
    pub failed: u64,
}

impl Count {
    /// Adds what `line` reports; lines that are no summary add nothing.
    ///
    /// Knows cargo nextest, libtest, forge (its last line, not each suite's), node's runner and vitest.
    pub fn read(&mut self, line: &str) {
        let line = without_colors(line);
        let line = line.trim();
        let parts = if let Some((head, tail)) = line.split_once(" run: ")
            && head.starts_with("Summary [")
        {
            tail.split(',').collect::<Vec<_>>()
        } else if let Some((_, tail)) = line.strip_prefix("test result: ").and_then(|tail| tail.split_once(". ")) {
            tail.split(';').collect()
        } else if let Some((_, tail)) = line.split_once("): ")
            && line.starts_with("Ran ")
            && line.contains(" test suite")
        {
            tail.split(',').collect()
        } else if let Some(tail) = line.strip_prefix("Tests ")
            && line.ends_with(')')
        {
            return self.read_vitest(tail);
        } else if let Some(tail) = line.strip_prefix("# ").or_else(|| line.strip_prefix("ℹ ")) {
            return self.read_node(tail);
        } else {
            return;
        };
        for part in parts {
            self.add(part.trim());
        }
    }

    /// Sum of both.
    pub fn add_all(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    fn add(&mut self, part: &str) {
        let Some((number, label)) = part.split_once(' ') else { return };
        let Ok(number) = number.parse::<u64>() else { return };
        let label = label.trim_start_matches("tests ").trim_start_matches("test ");
        if label.starts_with("passed") {
            self.passed += number;
        } else if ["failed", "timed out", "exec failed"].iter().any(|failure| label.starts_with(failure)) {
            self.failed += number;
        }
    }

    /// `2 failed | 118 passed | 1 skipped (121)`.
    fn read_vitest(&mut self, tail: &str) {
        for part in tail.split(['|', '(']) {
            self.add(part.trim());
        }
    }

    fn read_node(&mut self, tail: &str) {
        let Some((label, number)) = tail.split_once(' ') else { return };
        let Ok(number) = number.trim().parse::<u64>() else { return };
        match label {
            "pass" => self.passed += number,
            "fail" | "cancelled" => self.failed += number,
            _ => {}
        }
    }
}

/// `line` without ANSI colour codes.
fn without_colors(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_all_runners_are_counted() {
        let cases = [
            ("     Summary [   0.032s] 12 tests run: 12 passed, 3 skipped", 12, 0),
            ("     Summary [  10.002s] 5/9 tests run: 2 passed (1 slow), 2 failed, 1 timed out, 4 skipped", 2, 3),
            (
                "\u{1b}[32;1m     Summary\u{1b}[0m [   0.1s] \u{1b}[1m1\u{1b}[0m test run: \u{1b}[1m1\u{1b}[0m \u{1b}[32;1mpassed\u{1b}[0m, 0 skipped",
                1,
                0,
            ),
            ("test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s", 3, 1),
            ("Ran 5 test suites in 1.20s (3.10s CPU time): 30 tests passed, 1 failed, 0 skipped (31 total tests)", 30, 1),
            ("Suite result: ok. 3 passed; 0 failed; 0 skipped; finished in 1ms", 0, 0),
            ("# pass 4", 4, 0),
            ("ℹ fail 2", 0, 2),
            ("# tests 6", 0, 0),
            ("      Tests  2 failed | 118 passed | 1 skipped (121)", 118, 2),
            (" Test Files  1 failed | 12 passed (13)", 0, 0),
            ("\u{1b}[2m      Tests \u{1b}[22m \u{1b}[1m\u{1b}[32m7 passed\u{1b}[39m\u{1b}[22m\u{1b}[90m (7)\u{1b}[39m", 7, 0),
            ("all tests passed", 0, 0),
        ];
        for (line, passed, failed) in cases {
            let mut count = Count::default();
            count.read(line);
            assert_eq!(count, Count { passed, failed }, "{line}");
        }
    }
}
