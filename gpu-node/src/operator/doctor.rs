//! `gpu-node doctor`: everything that must hold before jobs come, each with what is, what must be and what to do.

mod checks;

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{ConfigFlag, block_on, print_line};

/// Check this node's setup and say what to do
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  gpu-node doctor
  gpu-node doctor --config node.toml --json
  gpu-node doctor --full     hashes weights of any size

Exit codes: 0 all is well, 1 something must be mended, 2 warnings only.")]
pub struct DoctorArgs {
    #[command(flatten)]
    config: ConfigFlag,
    /// Hash the weights of every model, however large
    #[arg(long)]
    full: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// Good to know.
    Info,
    Pass,
    /// Works, but not as it should.
    Warn,
    Fail,
}

/// One record; the fields are stable, so that scripts can read them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    id: &'static str,
    title: String,
    outcome: Outcome,
    actual: String,
    required: String,
    /// Of `actual` and `required`; empty where they are words.
    unit: &'static str,
    /// What to do; empty unless something is wrong.
    remediation: String,
}

impl Check {
    fn pass(id: &'static str, title: impl Into<String>, actual: impl ToString, required: impl ToString) -> Self {
        let (actual, required) = (actual.to_string(), required.to_string());
        Self { id, title: title.into(), outcome: Outcome::Pass, actual, required, unit: "", remediation: String::new() }
    }

    fn fail(id: &'static str, title: impl Into<String>, actual: impl ToString, required: impl ToString, remedy: impl Into<String>) -> Self {
        Self { outcome: Outcome::Fail, remediation: remedy.into(), ..Self::pass(id, title, actual, required) }
    }

    fn into_warning(self) -> Self {
        Self { outcome: Outcome::Warn, ..self }
    }

    fn into_info(self) -> Self {
        Self { outcome: Outcome::Info, ..self }
    }

    fn in_unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }
}

impl DoctorArgs {
    /// Runs every check that makes sense after the ones before it.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let checks = block_on(async { Ok(checks::all(&self.config.config, self.full).await) })?;
        let worst = checks.iter().map(|check| check.outcome).max().unwrap_or(Outcome::Pass).max(Outcome::Pass);
        if self.json {
            let report = serde_json::json!({ "v": 1, "outcome": worst, "checks": checks });
            print_line(serde_json::to_string_pretty(&report)?)?;
        } else {
            for check in &checks {
                print_line(text(check))?;
            }
        }
        Ok(match worst {
            Outcome::Fail => ExitCode::FAILURE,
            Outcome::Warn => ExitCode::from(2),
            Outcome::Info | Outcome::Pass => ExitCode::SUCCESS,
        })
    }
}

fn text(check: &Check) -> String {
    let mark = match check.outcome {
        Outcome::Info => "info",
        Outcome::Pass => "pass",
        Outcome::Warn => "WARN",
        Outcome::Fail => "FAIL",
    };
    let unit = if check.unit.is_empty() { String::new() } else { format!(" {}", check.unit) };
    let mut line = format!("{mark}  {:<28} {}{unit}", check.title, check.actual);
    if matches!(check.outcome, Outcome::Warn | Outcome::Fail) {
        line += &format!("\n      required: {}{unit}\n      do: {}", check.required, check.remediation);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_check_says_what_is_what_must_be_and_what_to_do() {
        let check = Check::fail("memory", "memory available", 100, 400, "close something").in_unit("MB");
        assert_eq!(text(&check), "FAIL  memory available             100 MB\n      required: 400 MB\n      do: close something");
        let json = serde_json::to_value(&check).unwrap();
        assert_eq!((json["id"].as_str(), json["outcome"].as_str(), json["unit"].as_str()), (Some("memory"), Some("fail"), Some("MB")));
    }
}
