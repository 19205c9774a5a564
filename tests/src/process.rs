//! Child processes that do not outlive the test that started them.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

const POLL: Duration = Duration::from_millis(5);
const TAIL_BYTES_MAX: usize = 8 * 1024;

/// Calls `probe` until it yields a value, for `limit` at most; then panics with what `describe` says.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Option<T>,
    describe: impl FnOnce() -> String,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain for {what}\n{}", describe());
        thread::sleep(POLL);
    }
}

/// Waits until `ready` says so, for `limit` at most; panics with what the server said when it ends before.
pub fn await_server(process: &mut Process, limit: Duration, ready: impl Fn() -> bool) {
    let deadline = Instant::now() + limit;
    while !ready() {
        assert!(process.is_running(), "{} ended at once\n{}", process.name, process.tail());
        assert!(
            Instant::now() < deadline,
            "{} is not ready after {limit:?}\n{}",
            process.name,
            process.tail()
        );
        thread::sleep(POLL);
    }
}

/// A child in a process group of its own, whose output goes to files.
///
/// Dropping it kills the whole group. Should this process die first, a watchdog does so.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    watchdog: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    status: Option<ExitStatus>,
    rss_peak_bytes: u64,
}

impl Process {
    /// Starts `command`, with `NAME.out` and `NAME.err` in `directory` as its output.
    pub fn spawn(name: &str, mut command: Command, directory: &Path) -> Self {
        let stdout = directory.join(format!("{name}.out"));
        let stderr = directory.join(format!("{name}.err"));
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).expect("a log file can be made"))
            .stderr(File::create(&stderr).expect("a log file can be made"));
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let watchdog = watchdog(child.id()).expect("sh can be started");
        Self { name: name.to_owned(), child, watchdog, stdout, stderr, status: None, rss_peak_bytes: 0 }
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.poll().is_none()
    }

    /// Waits for the process to end, for `limit` at most; kills it and panics after that.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.poll() {
                return status;
            }
            if Instant::now() >= deadline {
                self.kill();
                panic!("{} still ran after {limit:?}\n{}", self.name, self.tail());
            }
            thread::sleep(POLL);
        }
    }

    /// Sends SIGKILL to the group and waits until the process is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        if self.status.is_none() {
            self.status = self.child.wait().ok();
        }
    }

    /// Sends SIGTERM.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub fn interrupt(&mut self) {
        self.signal(Signal::INT);
    }

    /// Stops the process from being scheduled, until [`Process::resume`].
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
    }

    /// Lets a paused process run on.
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Returns what was written to stdout so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    /// Returns what was written to stderr so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// Returns the largest resident set seen so far, in bytes; sampled every few milliseconds of waiting.
    pub fn rss_peak_bytes(&self) -> u64 {
        self.rss_peak_bytes
    }

    /// Returns the end of both outputs, for a failure message.
    pub fn tail(&self) -> String {
        let tail = |text: String| -> String {
            let start = text.floor_char_boundary(text.len().saturating_sub(TAIL_BYTES_MAX));
            text[start..].to_owned()
        };
        format!(
            "--- {name} stdout ---\n{}\n--- {name} stderr ---\n{}",
            tail(self.stdout()),
            tail(self.stderr()),
            name = self.name
        )
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        self.rss_peak_bytes = self.rss_peak_bytes.max(rss_peak_bytes(self.child.id()));
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("a child can be waited for");
        }
        self.status
    }

    fn signal(&mut self, signal: Signal) {
        // A reaped child's id may belong to somebody else by now.
        if self.poll().is_none() {
            let _ = kill_process_group(Pid::from_child(&self.child), signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // First the watchdog: it must not fire at a process group id that has been given away again.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        self.kill();
        if thread::panicking() {
            let mut out = io::stderr().lock();
            let _ = io::Write::write_all(&mut out, self.tail().as_bytes());
        }
    }
}

/// Starts a shell that kills the process group `id` once this process is gone.
fn watchdog(id: u32) -> io::Result<Child> {
    Command::new("sh")
        .args(["-c", "read -r _; kill -s KILL -- \"-$0\" 2>/dev/null", &id.to_string()])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

fn rss_peak_bytes(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn parent_of_a_sleeper() -> (Command, tempfile::TempDir) {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $!; wait"]);
        (command, tempfile::tempdir().unwrap())
    }

    fn sleeper_of(process: &Process) -> u32 {
        wait_for("the child's child", LIMIT, || process.stdout().trim().parse().ok(), String::new)
    }

    fn assert_gone(id: u32) {
        let is_gone = || {
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        };
        wait_for("the end of the child's child", LIMIT, is_gone, String::new);
    }

    #[test]
    fn dropping_a_process_ends_its_children_too() {
        let (command, directory) = parent_of_a_sleeper();
        let process = Process::spawn("parent", command, directory.path());
        let sleeper = sleeper_of(&process);
        drop(process);
        assert_gone(sleeper);
    }

    #[test]
    fn watchdog_ends_the_group_when_the_test_is_gone() {
        let (command, directory) = parent_of_a_sleeper();
        let mut process = Process::spawn("parent", command, directory.path());
        let sleeper = sleeper_of(&process);
        // All that the end of this process would do to the watchdog.
        drop(process.watchdog.stdin.take());
        assert!(!process.wait(LIMIT).success());
        assert_gone(sleeper);
    }
}
