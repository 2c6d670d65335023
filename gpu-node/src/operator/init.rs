//! `gpu-node init`: writes a config from the commented example, with the answers to a few questions.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use super::{ConfigFlag, print_line};
use crate::config::{Config, EXAMPLE};
use crate::link::MeterUrl;

/// Write a config file (mode 0600)
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  gpu-node init
  gpu-node init --yes --meter https://meter.example --model llama-3.1-8b-instruct=/models/llama --deployment deployment.json
  gpu-node init --config node2.toml --admin-listen 127.0.0.1:9401

Asks for what no flag says, when there is a terminal; with --yes the example's value stands. Never asks for a secret.")]
pub struct InitArgs {
    #[command(flatten)]
    config: ConfigFlag,
    /// Meter to link to; may be given several times
    #[arg(long, value_name = "URL")]
    meter: Vec<MeterUrl>,
    /// Model to serve, as ID=FOLDER; may be given several times
    #[arg(long, value_name = "ID=FOLDER", value_parser = parse_model)]
    model: Vec<(String, String)>,
    /// Node's keystore
    #[arg(long, value_name = "FILE")]
    keystore: Option<PathBuf>,
    /// File with its password
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Where unacknowledged receipts are kept
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// Chain endpoint, JSON-RPC over HTTP(S)
    #[arg(long, value_name = "URL")]
    rpc_url: Option<String>,
    /// Deployment file of the contracts
    #[arg(long, value_name = "FILE")]
    deployment: Option<PathBuf>,
    /// Operator id; asked of the registry when absent
    #[arg(long, value_name = "ID")]
    operator: Option<u32>,
    /// Requests served at once
    #[arg(long, value_name = "COUNT")]
    capacity: Option<u32>,
    /// Health, metrics and status
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
    /// Ask nothing
    #[arg(long)]
    yes: bool,
}

impl InitArgs {
    /// Writes the file; one that exists is left alone.
    pub fn run(mut self) -> anyhow::Result<ExitCode> {
        let path = self.config.config.clone();
        ensure!(!path.exists(), "{} exists and is left alone; name another with --config", path.display());
        if !self.yes {
            ensure!(std::io::stdin().is_terminal(), "there is no terminal to ask at; give --yes and flags, see `gpu-node init --help`");
            self.ask()?;
        }
        let text = self.fill()?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("{} can't be written", path.display()))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        let config = Config::read(&path)?;
        eprintln!("wrote {}; next:", path.display());
        if !config.keystore.exists() {
            eprintln!(
                "  (umask 077; head -c 32 /dev/urandom | base64 > {1})\n  gpu-node key new --out {0} --password-file {1}",
                config.keystore.display(),
                config.password_file.display()
            );
        }
        eprintln!(
            "  gpu-node register --config {0} --owner-keystore FILE --owner-password-file FILE\n  gpu-node doctor --config {0}\n  gpu-node run --config {0}",
            path.display()
        );
        print_line(path.display())?;
        Ok(ExitCode::SUCCESS)
    }

    fn ask(&mut self) -> anyhow::Result<()> {
        if self.meter.is_empty() {
            self.meter = vec![ask("Meter to link to", "http://127.0.0.1:8080")?.parse()?];
        }
        if self.model.is_empty() {
            let id = ask("Model id, as the meter prices it", "smollm2-135m-instruct")?;
            let folder = ask("Folder of the model", &format!("models/{id}"))?;
            self.model = vec![(id, folder)];
        }
        let (keystore, deployment) = (self.keystore.take(), self.deployment.take());
        self.keystore = Some(keystore.map_or_else(|| ask("Keystore of the node's key", "node-key.json").map(PathBuf::from), Ok)?);
        self.rpc_url = Some(self.rpc_url.take().map_or_else(|| ask("Chain endpoint (JSON-RPC)", "http://127.0.0.1:8545"), Ok)?);
        self.deployment =
            Some(deployment.map_or_else(|| ask("Deployment file of the contracts", "deployment.json").map(PathBuf::from), Ok)?);
        Ok(())
    }

    /// The example with this command's values in their places.
    fn fill(&self) -> anyhow::Result<String> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| quoted(&path.display().to_string()));
        let meters: Vec<String> = self.meter.iter().map(|meter| quoted(&meter.to_string())).collect();
        let values = [
            ("meters", (!meters.is_empty()).then(|| format!("[{}]", meters.join(", ")))),
            ("keystore", path(&self.keystore)),
            ("password_file", path(&self.password_file)),
            ("state_dir", path(&self.state_dir)),
            ("admin_listen", self.admin_listen.map(|listen| quoted(&listen.to_string()))),
            ("operator", self.operator.map(|operator| operator.to_string())),
            ("capacity", self.capacity.map(|capacity| capacity.to_string())),
            ("rpc_url", self.rpc_url.as_deref().map(quoted)),
            ("deployment", path(&self.deployment)),
        ];
        let mut text = EXAMPLE.to_owned();
        for (name, value) in values {
            if let Some(value) = value {
                text = replaced(&text, name, &value)?;
            }
        }
        if let Some(((id, folder), more)) = self.model.split_first() {
            text = replaced(&replaced(&text, "id", &quoted(id))?, "path", &quoted(folder))?;
            let tables: String =
                more.iter().map(|(id, folder)| format!("[[models]]\nid = {}\npath = {}\n\n", quoted(id), quoted(folder))).collect();
            text = text.replacen("[engine]", &format!("{tables}[engine]"), 1);
        }
        Ok(text)
    }
}

/// `text` with the value of the first setting `name`; its comment stays. A setting that is commented out comes into force.
fn replaced(text: &str, name: &str, value: &str) -> anyhow::Result<String> {
    let mut done = false;
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let setting = line.trim_start_matches('#').split_once(" = ").filter(|(before, _)| *before == name && !done);
            let Some((_, rest)) = setting else { return line.to_owned() };
            done = true;
            let comment = rest.split_once(" #").map_or(String::new(), |(_, comment)| format!(" #{comment}"));
            format!("{name} = {value}{comment}")
        })
        .collect();
    if !done {
        bail!("the example has no setting `{name}`");
    }
    Ok(lines.join("\n") + "\n")
}

/// A TOML string; JSON's escapes are TOML's too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn ask(question: &str, default: &str) -> anyhow::Result<String> {
    eprint!("{question} [{default}]: ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    ensure!(std::io::stdin().read_line(&mut answer)? > 0, "no answer");
    let answer = answer.trim();
    Ok(if answer.is_empty() { default } else { answer }.to_owned())
}

fn parse_model(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((id, folder)) if !id.is_empty() && !folder.is_empty() => Ok((id.into(), folder.into())),
        _ => Err("write it as ID=FOLDER, such as smollm2-135m-instruct=models/smollm2-135m-instruct".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        init: InitArgs,
    }

    fn init(flags: &[&str]) -> (tempfile::TempDir, PathBuf, anyhow::Result<ExitCode>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gpu-node.toml");
        let words = ["init", "--yes", "--config", path.to_str().unwrap()].into_iter().chain(flags.iter().copied());
        let outcome = Cli::try_parse_from(words).map_err(anyhow::Error::from).and_then(|cli| cli.init.run());
        (folder, path, outcome)
    }

    #[test]
    fn the_written_config_says_what_the_flags_said() {
        let (_folder, path, outcome) = init(&[
            "--meter=https://a.example",
            "--meter=https://b.example",
            "--model=one=/m/\"1\"",
            "--model=two=/m/2",
            "--operator=7",
            "--capacity=9",
            "--admin-listen=127.0.0.1:1234",
            "--rpc-url=http://127.0.0.1:1",
            "--deployment=/d.json",
            "--keystore=/k.json",
            "--password-file=/p",
            "--state-dir=/s",
        ]);
        outcome.unwrap();
        let config = Config::read(&path).unwrap();
        let meters: Vec<String> = config.meters.iter().map(ToString::to_string).collect();
        assert_eq!(meters, ["https://a.example", "https://b.example"]);
        let models: Vec<(&str, &str)> = config.models.iter().map(|model| (model.id.as_str(), model.path.to_str().unwrap())).collect();
        assert_eq!(models, [("one", "/m/\"1\""), ("two", "/m/2")]);
        assert_eq!((config.operator.unwrap().0, config.capacity, config.admin_listen.port()), (7, 9, 1234));
        assert_eq!(config.chain.rpc_url.as_str(), "http://127.0.0.1:1/");
        let paths = [&config.chain.deployment, &config.keystore, &config.password_file, &config.state_dir];
        assert_eq!(paths.map(|path| path.to_str().unwrap()), ["/d.json", "/k.json", "/p", "/s"]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(std::fs::read_to_string(&path).unwrap().contains("# requests served at once"));
    }

    #[test]
    fn a_config_that_exists_is_left_alone() {
        let (_folder, path, outcome) = init(&[]);
        outcome.unwrap();
        let before = std::fs::read_to_string(&path).unwrap();
        assert_eq!(before, EXAMPLE);
        let again = Cli::try_parse_from(["init", "--yes", "--config", path.to_str().unwrap(), "--operator=7"]).unwrap().init.run();
        assert!(again.unwrap_err().to_string().contains("left alone"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
    }

    #[test]
    fn no_flag_takes_a_secret() {
        for flag in ["--private-key=0x12", "--password=x", "--secret=x"] {
            assert!(init(&[flag]).2.is_err(), "{flag}");
        }
    }
}
