//! One process of the network: started with its log, watched, stopped or killed.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::command;
use crate::stop::{Stop, wait_until};

/// Log lines shown when a process dies.
const TAIL_LINES: usize = 25;
const TAIL_BYTES: u64 = 64 << 10;
/// A log larger than this is put aside at the next start, bytes.
const LOG_BYTES_MAX: u64 = 64 << 20;

/// How a process is started, again and again.
#[derive(Clone, Debug)]
pub struct Program {
    /// Name in status lines and of the log and pid files.
    pub name: String,
    /// Binary.
    pub binary: PathBuf,
    /// Arguments; no secrets.
    pub arguments: Vec<String>,
    /// Where it runs.
    pub folder: PathBuf,
    /// Extra environment; no secrets.
    pub environment: Vec<(String, String)>,
    /// From SIGTERM to SIGKILL.
    pub stop_limit: Duration,
}

/// A started program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    program: Program,
    child: Child,
    log: PathBuf,
    pid_file: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `program`; output goes to `logs/{name}.log` and its id to `run/{name}.pid`, both under `dir`.
    ///
    /// With `own_group`, a Ctrl-C at the terminal reaches only us, and we stop the network in order.
    pub fn start(dir: &Path, program: &Program, own_group: bool) -> Result<Self> {
        let log = dir.join("logs").join(format!("{}.log", program.name));
        let pid_file = dir.join("run").join(format!("{}.pid", program.name));
        let (out, err) = open_log(&log)?;
        let mut command = Command::new(&program.binary);
        command.args(&program.arguments).current_dir(&program.folder).envs(program.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        if own_group {
            command.process_group(0);
        }
        let child = command.spawn().with_context(|| format!("cannot start {} ({})", program.name, program.binary.display()))?;
        let mut process = Self { program: program.clone(), child, log, pid_file, ended: None };
        if let Err(error) = write_pid(&process.pid_file, process.id()) {
            process.kill();
            return Err(error);
        }
        Ok(process)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// How it was started.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, when it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.ended = Some(status);
            fs::remove_file(&self.pid_file).ok();
        }
        self.ended
    }

    /// Why it is not running: exit status and the last lines of its log.
    pub fn obituary(&mut self) -> Option<String> {
        let status = self.ended()?;
        Some(format!("{} ended with {status}. Last lines of {}:\n{}", self.name(), self.log.display(), indent(&log_tail(&self.log))))
    }

    /// SIGTERM, then SIGKILL after the program's own limit. True when it ended by itself.
    pub fn stop(&mut self) -> bool {
        self.terminate();
        let limit = self.program.stop_limit;
        let ended = wait_until("the process to end", limit, &Stop::default(), || Ok(self.ended()));
        if ended.is_err() {
            self.kill();
        }
        ended.is_ok()
    }

    /// SIGTERM only.
    pub fn terminate(&mut self) {
        if self.ended().is_none() {
            signal(self.id(), Signal::TERM);
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            self.child.kill().ok();
            self.ended = self.child.wait().ok();
            fs::remove_file(&self.pid_file).ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ends what an earlier run left behind in `dir` because it was killed itself. Names of what was found.
///
/// A process counts as ours only when its command line names `dir`, because process ids are used again.
pub fn end_leftovers(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir.join("run")) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let id = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u32>().ok());
        if let Some(id) = id.filter(|id| command_line(*id).contains(&*dir.to_string_lossy())) {
            signal(id, Signal::TERM);
            let gone = wait_until("a leftover process to end", Duration::from_secs(10), &Stop::default(), || {
                Ok(command_line(id).is_empty().then_some(()))
            });
            if gone.is_err() {
                signal(id, Signal::KILL);
            }
            found.push(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
        }
        fs::remove_file(&path).ok();
    }
    found
}

/// The end of a log file.
pub fn log_tail(log: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().map_or_else(|error| format!("({error})"), |text| command::tail(&text, TAIL_LINES))
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

fn open_log(log: &Path) -> Result<(File, File)> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    if fs::metadata(log).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        fs::rename(log, log.with_extension("log.1")).ok();
    }
    let out = OpenOptions::new().create(true).append(true).open(log).with_context(|| format!("cannot open {}", log.display()))?;
    let err = out.try_clone().with_context(|| format!("cannot open {} twice", log.display()))?;
    Ok((out, err))
}

fn write_pid(path: &Path, id: u32) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(path, id.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

fn signal(id: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // Fails only when it has ended already.
        kill_process(pid, signal).ok();
    }
}

/// Empty when there is no such process.
fn command_line(id: u32) -> String {
    if Path::new("/proc/self/cmdline").exists() {
        return fs::read(format!("/proc/{id}/cmdline")).map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " ")).unwrap_or_default();
    }
    let output = Command::new("ps").args(["-o", "command=", "-p", &id.to_string()]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(dir: &Path, script: &str) -> Program {
        Program {
            name: "sample".into(),
            binary: "sh".into(),
            arguments: vec!["-c".into(), script.into(), dir.display().to_string()],
            folder: dir.to_owned(),
            environment: Vec::new(),
            stop_limit: Duration::from_secs(10),
        }
    }

    fn await_end(process: &mut Process) -> ExitStatus {
        wait_until("the end", Duration::from_secs(20), &Stop::default(), || Ok(process.ended())).unwrap()
    }

    fn await_log(process: &Process, text: &str) {
        wait_until("the log", Duration::from_secs(20), &Stop::default(), || Ok(log_tail(process.log()).contains(text).then_some(())))
            .unwrap();
    }

    #[test]
    fn a_death_is_told_with_its_status_and_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::start(dir.path(), &shell(dir.path(), "echo no memory left >&2; exit 4"), true).unwrap();
        assert_eq!(await_end(&mut process).code(), Some(4));
        let told = process.obituary().unwrap();
        assert!(told.starts_with("sample ended with exit status: 4") && told.ends_with("no memory left"), "{told}");
        assert!(!dir.path().join("run/sample.pid").exists());
    }

    #[test]
    fn a_stop_asks_first() {
        let dir = tempfile::tempdir().unwrap();
        let script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done";
        let mut process = Process::start(dir.path(), &shell(dir.path(), script), true).unwrap();
        await_log(&process, "up");
        assert!(process.stop());
        assert!(log_tail(process.log()).ends_with("bye"));
    }

    #[test]
    fn a_process_that_will_not_stop_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut program = shell(dir.path(), "trap '' TERM; echo up; while :; do sleep 0.05; done");
        program.stop_limit = Duration::from_millis(200);
        let mut process = Process::start(dir.path(), &program, true).unwrap();
        await_log(&process, "up");
        assert!(!process.stop());
        assert!(process.ended().is_some());
    }

    #[test]
    fn leftovers_of_a_killed_run_are_ended_and_strangers_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut ours = Process::start(dir.path(), &shell(dir.path(), "echo up; while :; do sleep 0.05; done"), true).unwrap();
        await_log(&ours, "up");
        let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(dir.path().join("run/stranger.pid"), stranger.id().to_string()).unwrap();

        // The child stays a zombie until it is reaped, as it would not after its parent's death.
        let reaper = std::thread::spawn(move || await_end(&mut ours));
        assert_eq!(end_leftovers(dir.path()), ["sample"]);
        reaper.join().unwrap();
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
