//! Running other programs: with a limit, heeding a stop, and with errors that show what the program said.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::stop::{Stop, wait_until};

/// Lines of output that an error shows.
const TAIL_LINES: usize = 30;

/// Runs to the end and returns standard output.
///
/// Errors when the program is missing, fails (the last lines of its output are in the message), or takes longer than `limit`.
pub fn capture(command: &mut Command, limit: Duration, stop: &Stop) -> Result<String> {
    let name = describe(command);
    let mut child = spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()), &name)?;
    let stdout = read_all(child.stdout.take());
    let stderr = read_all(child.stderr.take());
    let status = finish(&mut child, &name, limit, stop)?;
    let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
    if !status.success() {
        bail!("`{name}` failed ({status}):\n{}", tail(&format!("{stdout}{stderr}"), TAIL_LINES));
    }
    Ok(stdout)
}

/// Runs to the end and hands every line of both outputs to `on_line` as it comes.
pub fn stream(command: &mut Command, limit: Duration, stop: &Stop, mut on_line: impl FnMut(&str)) -> Result<ExitStatus> {
    let name = describe(command);
    let mut child = spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()), &name)?;
    let (sender, lines) = mpsc::sync_channel::<String>(1024);
    if let Some(stdout) = child.stdout.take() {
        send_lines(stdout, sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        send_lines(stderr, sender);
    }
    let status = wait_until(&format!("`{name}` to end"), limit, stop, || {
        while let Ok(line) = lines.try_recv() {
            on_line(&line);
        }
        child.try_wait().with_context(|| format!("cannot wait for `{name}`"))
    });
    if status.is_err() {
        end(&mut child);
    }
    // A grandchild may hold the pipe open; what it says after the child's end is not waited for.
    while let Ok(line) = lines.recv_timeout(Duration::from_millis(200)) {
        on_line(&line);
    }
    status
}

/// Runs to the end with its output on ours.
pub fn show(command: &mut Command, limit: Duration, stop: &Stop) -> Result<()> {
    let name = describe(command);
    let mut child = spawn(command.stdin(Stdio::null()), &name)?;
    let status = finish(&mut child, &name, limit, stop)?;
    if !status.success() {
        bail!("`{name}` failed ({status}); its output is above");
    }
    Ok(())
}

/// Whether the program can be started at all, asked with `--version`; the first line that it prints.
pub fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Program and arguments as one line, for messages.
pub fn describe(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let mut line = program.rsplit('/').next().unwrap_or(&program).to_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    if line.chars().count() > 160 { format!("{}…", line.chars().take(160).collect::<String>()) } else { line }
}

/// The last `count` lines.
pub fn tail(text: &str, count: usize) -> String {
    let mut lines = VecDeque::with_capacity(count);
    for line in text.lines() {
        if lines.len() == count {
            lines.pop_front();
        }
        lines.push_back(line);
    }
    Vec::from(lines).join("\n")
}

fn spawn(command: &mut Command, name: &str) -> Result<Child> {
    command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow!("`{}` is not installed or not in PATH", command.get_program().to_string_lossy()),
        _ => anyhow!("cannot start `{name}`: {error}"),
    })
}

fn finish(child: &mut Child, name: &str, limit: Duration, stop: &Stop) -> Result<ExitStatus> {
    let status = wait_until(&format!("`{name}` to end"), limit, stop, || child.try_wait().context("cannot wait for a child process"));
    if status.is_err() {
        end(child);
    }
    status
}

fn end(child: &mut Child) {
    // Both fail only when the child has ended already.
    child.kill().ok();
    child.wait().ok();
}

fn read_all(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes).ok();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn send_lines(pipe: impl Read + Send + 'static, sender: mpsc::SyncSender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n') {
            let Ok(line) = line else { return };
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_is_captured() {
        assert_eq!(capture(&mut shell("echo one; echo two >&2"), LIMIT, &Stop::default()).unwrap(), "one\n");
    }

    #[test]
    fn a_failure_shows_the_status_and_what_the_program_said() {
        let error = capture(&mut shell("echo why >&2; exit 3"), LIMIT, &Stop::default()).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("why"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = capture(&mut Command::new("no-such-program"), LIMIT, &Stop::default()).unwrap_err().to_string();
        assert_eq!(error, "`no-such-program` is not installed or not in PATH");
    }

    #[test]
    fn a_program_that_takes_too_long_is_ended() {
        let error = capture(&mut shell("exec sleep 60"), Duration::from_millis(50), &Stop::default()).unwrap_err().to_string();
        assert!(error.starts_with("waited 0 s for `sh -c exec sleep 60`"), "{error}");
    }

    #[test]
    fn lines_of_both_outputs_are_streamed() {
        let mut lines = Vec::new();
        let status = stream(&mut shell("echo a; echo b >&2; exit 1"), LIMIT, &Stop::default(), |line| lines.push(line.to_owned()));
        lines.sort();
        assert_eq!((status.unwrap().code(), lines), (Some(1), vec!["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn a_tail_keeps_the_last_lines() {
        assert_eq!(tail("1\n2\n3\n", 2), "2\n3");
        assert_eq!(tail("1", 2), "1");
    }
}
