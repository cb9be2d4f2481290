//! Owns a terminal in tests: a command as a process, what is typed into it, what it has printed so far, its end.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Longer than any command may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// The program, told of one data folder and of nothing else.
pub fn hairpin(data: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hairpin"));
    command.args(args);
    alone(&mut command, data);
    command
}

/// The command at a real terminal.
pub fn at_tty(data: &Path, args: &[&str]) -> Command {
    let line = format!("exec {} {}", env!("CARGO_BIN_EXE_hairpin"), args.join(" "));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    alone(&mut script, data);
    script.env("PATH", "/usr/bin:/bin");
    script
}

fn alone(command: &mut Command, data: &Path) {
    command
        .env_clear()
        .env("HAIRPIN_DATA_DIR", data)
        .env("HAIRPIN_LOG", "trace")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// The one line that a failure says.
    #[track_caller]
    pub fn complaint(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        let line = self.err.strip_suffix('\n').expect("a line");
        assert!(
            line.starts_with("hairpin: ") && !line.contains('\n'),
            "one line: {self:?}"
        );
        line
    }

    /// What a success printed.
    #[track_caller]
    pub fn answer(&self) -> &str {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{self:?}");
        &self.out
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

/// Runs a command to its end.
pub fn run(data: &Path, args: &[&str]) -> Said {
    hairpin(data, args).output().expect("run").into()
}

/// A running command.
pub struct Terminal {
    child: Child,
    input: Option<ChildStdin>,
    out: Heard,
    err: Heard,
}

impl Terminal {
    /// Starts a command with pipes for a terminal.
    pub fn start(data: &Path, args: &[&str]) -> Self {
        Self::of(hairpin(data, args))
    }

    /// Starts a command at a real terminal: what it prints anywhere is in `out`.
    pub fn at_tty(data: &Path, args: &[&str]) -> Self {
        Self::of(at_tty(data, args))
    }

    pub fn of(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .spawn()
            .expect("the command starts");
        Self {
            input: child.stdin.take(),
            out: Heard::of(child.stdout.take().expect("piped")),
            err: Heard::of(child.stderr.take().expect("piped")),
            child,
        }
    }

    pub fn write(&mut self, text: &str) {
        self.input
            .as_mut()
            .expect("open")
            .write_all(text.as_bytes())
            .expect("written");
    }

    /// Nothing more is typed.
    pub fn close(&mut self) {
        self.input = None;
    }

    /// What has been printed so far.
    pub fn out(&self) -> String {
        self.out.so_far()
    }

    /// Waits until the output is so; the output.
    pub async fn until(&mut self, what: &str, so: impl Fn(&str) -> bool) -> String {
        let wait = async {
            loop {
                let out = self.out();
                if so(&out) {
                    return out;
                }
                assert!(
                    self.child.try_wait().expect("known").is_none() || so(&self.out()),
                    "it ended before {what}: {out}{}",
                    self.err.so_far()
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(out) => out,
            Err(tokio::time::error::Elapsed { .. }) => panic!("never {what}: {}", self.out()),
        }
    }

    /// Waits for the output to hold a text.
    pub async fn says(&mut self, text: &str) -> String {
        self.until(text, |out| out.contains(text)).await
    }

    /// Waits until it has printed the text twice; everything so far.
    pub async fn says_twice(&mut self, text: &str) -> String {
        self.until(text, |out| out.matches(text).count() >= 2).await
    }

    /// Waits for a code; the code.
    pub async fn code(&mut self) -> String {
        let out = self.until("a code", |out| code_in(out).is_some()).await;
        code_in(&out).expect("just seen")
    }

    /// What everybody on this machine can see of it.
    pub fn command_line(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/cmdline", self.child.id())).expect("readable")
    }

    pub fn signal(&self, signal: Signal) {
        let process = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process");
        kill_process(process, signal).expect("signalled");
    }

    /// Waits for the end.
    pub async fn ended(mut self) -> Said {
        let wait = async {
            loop {
                if let Some(status) = self.child.try_wait().expect("known") {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let status = tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("it never ended: {}", self.out()));
        Said {
            code: status.code(),
            out: self.out.all(),
            err: self.err.all(),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Ended already, unless a test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a pipe has said.
struct Heard {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Heard {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length) = pipe.read(&mut piece)
                && length > 0
            {
                heard
                    .lock()
                    .expect("no panic")
                    .extend_from_slice(&piece[..length]);
            }
        });
        Self {
            text,
            reader: Some(reader),
        }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().expect("no panic")).into_owned()
    }

    /// All of it, once the other end is closed.
    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no panic");
        }
        self.so_far()
    }
}

/// The code in an output: two groups of four.
pub fn code_in(text: &str) -> Option<String> {
    let is_group =
        |group: &str| group.len() == 4 && group.chars().all(|sign| sign.is_ascii_alphanumeric());
    // A terminal's line is wiped before it is written anew.
    text.replace("\u{1b}[2K", " ")
        .split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '-')
        .find(|word| {
            word.split_once('-')
                .is_some_and(|(one, two)| is_group(one) && is_group(two))
        })
        .map(str::to_owned)
}
