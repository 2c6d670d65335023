//! A PostgreSQL server for tests: the one that `DATABASE_URL` names, or a temporary one from installed binaries.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::network::ports::free_port;
use crate::secret;
use crate::stop::Stop;

const INIT_LIMIT: Duration = Duration::from_secs(120);
const START_LIMIT: Duration = Duration::from_secs(60);

/// What a machine without a server is told.
pub const MISSING: &str = "no PostgreSQL: DATABASE_URL is not set and no `initdb` was found in PATH or /usr/lib/postgresql. \
     Install the package `postgresql`, or set DATABASE_URL to a server where databases may be created";

/// A server that tests may create databases on. A temporary one is stopped and removed on drop.
#[derive(Debug)]
pub struct Postgres {
    /// URL of a database whose user may create others.
    pub url: String,
    cluster: Option<Cluster>,
}

#[derive(Debug)]
struct Cluster {
    binaries: PathBuf,
    folder: PathBuf,
    user: Option<User>,
    durable: bool,
}

#[derive(Clone, Debug)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

impl Postgres {
    /// `None` when there is neither a server nor binaries. Errors when the binaries are there and do not work.
    pub fn find(stop: &Stop) -> Result<Option<Self>> {
        if let Ok(url) = std::env::var("DATABASE_URL")
            && url.starts_with("postgres")
        {
            return Ok(Some(Self { url, cluster: None }));
        }
        Self::temporary(false, stop)
    }

    /// A server of its own, on an empty folder; `None` without binaries. Only a `durable` one waits for the disk.
    pub fn temporary(durable: bool, stop: &Stop) -> Result<Option<Self>> {
        let Some(binaries) = binaries() else { return Ok(None) };
        let user = if rustix::process::geteuid().is_root() { Some(unprivileged_user()?) } else { None };
        let folder = std::env::temp_dir().join(format!("parallelix-postgres-{}", secret::random_hex(8)?));
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let cluster = Cluster { binaries, folder, user, durable };
        let url = cluster.start(stop).context("a temporary PostgreSQL server could not be started")?;
        Ok(Some(Self { url, cluster: Some(cluster) }))
    }

    /// In words, for the list of steps.
    pub fn describe(&self) -> String {
        match &self.cluster {
            Some(cluster) => format!("temporary server from {}", cluster.binaries.display()),
            None => "the server of DATABASE_URL".to_owned(),
        }
    }
}

impl Cluster {
    fn start(&self, stop: &Stop) -> Result<String> {
        let password = secret::random_hex(16)?;
        let password_file = self.folder.join("password");
        secret::write(&password_file, &password)?;
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o700)).context("cannot protect the temporary folder")?;
        if let Some(user) = &self.user {
            for path in [&self.folder, &password_file] {
                chown(path, Some(user.uid), Some(user.gid)).with_context(|| format!("cannot give {} to {}", path.display(), user.name))?;
            }
        }
        let data = self.folder.join("data").display().to_string();
        let mut initdb = self.command("initdb");
        initdb.args(["--pgdata", &data, "--username", "parallelix", "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale"]);
        initdb.args(["--no-sync", "--pwfile"]).arg(&password_file);
        command::capture(&mut initdb, INIT_LIMIT, stop)?;

        let port = free_port()?;
        let log = self.folder.join("log").display().to_string();
        // Loopback only. What tests write need not outlive a power cut.
        let fsync = if self.durable { "on" } else { "off" };
        let options = format!("-h 127.0.0.1 -p {port} -c unix_socket_directories= -c fsync={fsync} -c max_connections=200");
        let mut start = self.command("pg_ctl");
        start.args(["start", "--wait", "--silent", "--pgdata", &data, "--log", &log, "--options", &options]);
        command::capture(&mut start, START_LIMIT, stop)
            .with_context(|| format!("the server's log ends with:\n{}", crate::network::process::log_tail(Path::new(&log))))?;
        Ok(format!("postgres://parallelix:{password}@127.0.0.1:{port}/postgres"))
    }

    /// A server program, as an unprivileged user when we are root: PostgreSQL refuses to run as root.
    fn command(&self, name: &str) -> Command {
        let path = self.binaries.join(name);
        let mut command = match &self.user {
            None => Command::new(path),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid), "--clear-groups".to_owned()]).arg(path);
                command
            }
        };
        command.current_dir(&self.folder);
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut stop = self.command("pg_ctl");
        stop.args(["stop", "--mode", "immediate", "--silent", "--pgdata"]).arg(self.folder.join("data"));
        command::capture(&mut stop, START_LIMIT, &Stop::default()).ok();
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// Folder with `initdb` and `pg_ctl`: from PATH, or the newest under Debian's and Homebrew's folders.
fn binaries() -> Option<PathBuf> {
    let complete = |folder: &PathBuf| ["initdb", "pg_ctl", "postgres"].iter().all(|name| folder.join(name).is_file());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut versions: Vec<(u32, PathBuf)> = ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"]
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten())
        .filter_map(|entry| {
            let version = entry.file_name().to_string_lossy().trim_start_matches("postgresql@").parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort();
    let installed = versions.into_iter().rev().map(|(_, folder)| folder);
    installed.chain(std::env::split_paths(&path)).find(complete)
}

/// Who runs the server when we are root: `postgres` where the package made that user, else `nobody`.
fn unprivileged_user() -> Result<User> {
    let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let find = |name: &str| {
        let fields: Vec<&str> = passwd.lines().find(|line| line.starts_with(&format!("{name}:")))?.split(':').collect();
        Some(User { name: name.to_owned(), uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
    };
    match find("postgres").or_else(|| find("nobody")) {
        Some(user) => Ok(user),
        None => bail!("PostgreSQL refuses to run as root, and there is neither a user `postgres` nor `nobody`: set DATABASE_URL"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_server_accepts_connections_and_leaves_nothing_behind() {
        if binaries().is_none() {
            return; // the suite itself says that PostgreSQL was not tested
        }
        let mut postgres = Postgres::temporary(false, &Stop::default()).unwrap().unwrap();
        let url = postgres.url.clone();
        let cluster = postgres.cluster.take().unwrap();
        let folder = cluster.folder.clone();
        let address = url.split('@').nth(1).unwrap().split('/').next().unwrap().to_owned();
        assert!(std::net::TcpStream::connect(&address).is_ok());
        drop(cluster);
        assert!(std::net::TcpStream::connect(&address).is_err());
        assert!(!folder.exists());
    }
}
