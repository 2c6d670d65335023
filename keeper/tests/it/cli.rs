//! The binary, as an operator runs it.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use daemon::keystore;
use serde_json::Value;

use crate::network::Network;

fn keeper(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keeper"));
    command.args(arguments).args(["--config", "a.toml"]).current_dir(folder);
    command
}

async fn output(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = keeper(folder, arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_settles_reports_and_stops_on_a_signal() {
    let network = Network::start().await;
    let folder = network.folder.path();
    network.config("a");
    write_secret(&folder.join("p"), "password");
    let address = keystore::create(&folder.join("k"), &folder.join("p")).unwrap();
    network.fund(address).await;
    network.meter.admit(address);
    let toml = std::fs::read_to_string(folder.join("a.toml")).unwrap();
    std::fs::write(folder.join("a.toml"), format!("admin_listen = \"127.0.0.1:0\"\n{toml}")).unwrap();
    let sum = network.serve_six().await;

    let dry = output(folder, &["settle", "--dry-run"]).await;
    assert!(dry.status.success(), "{}", String::from_utf8_lossy(&dry.stderr));
    let dry: Value = serde_json::from_slice(&dry.stdout).unwrap();
    assert_eq!((dry["total_credits"].as_u64(), dry["due"].as_bool()), (Some(sum), Some(true)));
    assert_eq!(network.last_seq().await, 0);

    let mut daemon = keeper(folder, &["run"]).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let is_final = || async {
        let status = output(folder, &["status", "--json"]).await;
        let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        status["last_final"]["debited_credits"].as_u64() == Some(sum)
    };
    while !is_final().await {
        assert!(Instant::now() < deadline && daemon.try_wait().unwrap().is_none(), "never final");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    network.assert_paid_exactly_once(1).await;

    let report = output(folder, &["report", "--csv"]).await;
    let report = String::from_utf8(report.stdout).unwrap();
    assert_eq!(report.lines().count(), 3, "{report}");
    assert!(report.lines().nth(1).unwrap().starts_with("1,final,1,"), "{report}");

    assert!(Command::new("kill").args(["-TERM", &daemon.id().to_string()]).status().unwrap().success());
    let deadline = Instant::now() + Duration::from_secs(20);
    let ended = loop {
        if let Some(ended) = daemon.try_wait().unwrap() {
            break ended;
        }
        assert!(Instant::now() < deadline, "does not stop");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(ended.success());
}

#[tokio::test]
async fn errors_name_the_next_step_and_exit_with_one() {
    let folder = tempfile::tempdir().unwrap();
    let missing = output(folder.path(), &["run"]).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("--config"));
    let help = Command::new(env!("CARGO_BIN_EXE_keeper")).arg("--help").output().unwrap();
    assert!(String::from_utf8_lossy(&help.stdout).starts_with("Examples:"));
}

fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
