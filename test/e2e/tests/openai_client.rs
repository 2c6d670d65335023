//! The unmodified Python `openai` client, installed from PyPI.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Books, Scene, await_that, receipts};
use xtask::command;
use xtask::model::MODEL_ID;
use xtask::network::depositor::Terms;
use xtask::stop::Stop;
use xtask::workspace::Workspace;

const CLIENT: &str = "openai==3.54.0";
const INSTALL_LIMIT: Duration = Duration::from_secs(300);
const RUN_LIMIT: Duration = Duration::from_secs(180);

/// Where the client is; installed into a folder of its own at the first call.
fn client() -> Result<PathBuf> {
    let home = Workspace::here().home();
    let folder = home.join("python").join(CLIENT.replace("==", "-"));
    if !folder.is_dir() {
        let part = folder.with_extension("part");
        fs::remove_dir_all(&part).ok();
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", CLIENT, "--target"]).arg(&part);
        command::capture(&mut pip, INSTALL_LIMIT, &Stop::default()).context("the `openai` client could not be installed from PyPI")?;
        fs::rename(&part, &folder).context("the installed client can't be put in its place")?;
    }
    Ok(folder)
}

#[test]
fn the_unmodified_openai_client_chats_streams_gets_log_probabilities_and_json_and_sees_each_kind_of_error() -> Result<()> {
    let client = client()?;
    Scene::play("openai", 1, false, |scene| {
        let depositor = scene.funded("depositor", &Terms::DEMO)?;
        let poor = scene.funded("poor", &Terms { deposit: 1_000_000, cap: 1_000_000, ..Terms::DEMO })?;
        let mut python = Command::new("python3");
        python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/openai_client.py")).env("PYTHONPATH", &client);
        python.env("OPENAI_BASE_URL", format!("{}/v1", scene.meter().base())).env("MODEL", MODEL_ID);
        python.env("KEY_FILE", &depositor.api_key_file).env("POOR_KEY_FILE", &poor.api_key_file);
        python.env("NO_PROXY", "127.0.0.1").env("PYTHONDONTWRITEBYTECODE", "1");
        let said = command::capture(&mut python, RUN_LIMIT, &Stop::default())?;
        ensure!(said.lines().filter(|line| line.starts_with("holds: ")).count() == 27, "{said}");

        await_that("all receipts to be settled", || Ok(receipts(scene, &depositor)?.iter().all(|receipt| receipt["state"] == "settled")))?;
        Books::read(scene, &[depositor, poor])?.balance()
    })
}
