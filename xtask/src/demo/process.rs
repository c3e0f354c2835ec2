//! Child processes that print a JSON document on each line.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::interrupt::TICK;

/// A child whose lines are read by a thread. It is killed when this value goes.
#[derive(Debug)]
pub(super) struct Lines {
    child: Child,
}

impl Lines {
    /// Starts a command; `take` gets every line that is JSON, until it returns false.
    pub(super) fn start(
        command: &mut Command,
        mut take: impl FnMut(Value) -> bool + Send + 'static,
    ) -> Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start mesh")?;
        let stdout = child.stdout.take().context("a child without standard output")?;
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(value) = serde_json::from_str(&line)
                    && !take(value)
                {
                    break;
                }
            }
        });
        Ok(Self { child })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("cannot look at a child")?.is_none())
    }

    /// Ends its standard input, which the commands of a cluster take as a request to stop.
    pub(super) fn close_input(&mut self) {
        self.child.stdin = None;
    }

    /// Waits until it has ended.
    pub(super) fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        // There is no wait with a timeout in the standard library.
        let (_never, tick) = mpsc::channel::<()>();
        let mut left = patience;
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for a child")? {
                return Ok(status);
            }
            if left.is_zero() {
                bail!("process {} did not stop within {patience:?}", self.pid());
            }
            let _ = tick.recv_timeout(TICK);
            left = left.saturating_sub(TICK);
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal, such as `KILL`, to a process.
pub(super) fn signal(name: &str, pid: u32) -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()]);
    let done = command.output().context("cannot start sh")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "cannot send {name} to process {pid}: {}", said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn json_lines_arrive_and_the_status_is_known() {
        let (lines, received) = mpsc::channel();
        let mut child = Lines::start(&mut shell("echo 'not json'; echo '{\"a\":1}'; exit 3"), move |line| {
            lines.send(line).is_ok()
        })
        .expect("starts");
        assert_eq!(received.recv_timeout(PATIENCE).expect("a line")["a"], 1);
        assert_eq!(child.wait(PATIENCE).expect("ends").code(), Some(3));
    }

    #[test]
    fn the_end_of_its_input_reaches_a_process() {
        let mut child = Lines::start(&mut shell("cat; exit 7"), |_| true).expect("starts");
        assert!(child.is_running().expect("known"));
        child.close_input();
        assert_eq!(child.wait(PATIENCE).expect("ends").code(), Some(7));
    }

    #[test]
    fn a_signal_reaches_its_process() {
        let mut child = Lines::start(&mut shell("read line"), |_| true).expect("starts");
        signal("KILL", child.pid()).expect("sent");
        assert!(!child.wait(PATIENCE).expect("ends").success());
        signal("KILL", child.pid()).expect_err("it is gone");
    }
}
