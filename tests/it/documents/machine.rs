//! Owns a machine on which documents are tried: the program as it is installed, a service manager that starts and stops it, and
//! a phone that types every code. It stands in for the reader: what a sentence asks for before a command is done before it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use hairpin_sim::{Sim, SimConfig};
use tempfile::TempDir;

use crate::rig::{ANNA, PATIENCE};
use crate::terminal::{Said, Terminal};

/// `systemctl start|stop|restart|disable hairpin`: an answer only once it is done, as systemd does it.
const SYSTEMCTL: &str = r#"#!/bin/sh -eu
for unit; do :; done
[ "$unit" = hairpin ]
running() { [ -e "$STATE/pid" ]; }
start() {
    running && return
    mkfifo "$STATE/ready"
    hairpin serve > "$STATE/ready" 2>> "$STATE/log" &
    echo $! > "$STATE/pid"
    read -r line < "$STATE/ready"
    rm "$STATE/ready"
    echo "$line" | sed 's|.*//||; s|/$||' > "$STATE/address"
}
stop() {
    running || return 0
    kill "$(cat "$STATE/pid")"
    tail --pid="$(cat "$STATE/pid")" -f /dev/null
    rm "$STATE/pid"
}
case "$1" in
    start) start ;;
    stop | disable) stop ;;
    restart) stop; start ;;
    *) exit 1 ;;
esac
"#;

/// Everything here belongs to whoever runs the tests.
const SUDO: &str = "#!/bin/sh -eu\nexec \"$@\"\n";

/// How the phone's number is shown.
const MASKED: &str = "79001***567";

/// The machine. What it runs ends with it.
pub struct Machine {
    sim: Sim,
    folder: TempDir,
}

impl Machine {
    /// A machine with the program on it, not started yet.
    pub async fn new() -> Self {
        let sim = Sim::start_with(SimConfig {
            max_devices: usize::MAX,
            ..SimConfig::default()
        })
        .await;
        let folder = tempfile::tempdir().expect("a folder");
        let machine = Self { sim, folder };
        for name in ["bin", "usb"] {
            fs::create_dir(machine.at(name)).expect("made");
        }
        symlink(env!("CARGO_BIN_EXE_hairpin"), machine.at("bin/hairpin")).expect("linked");
        for (name, text) in [("systemctl", SYSTEMCTL), ("sudo", SUDO)] {
            let path = machine.at("bin").join(name);
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("made so");
        }
        machine
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.at("data")
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Running and linked, as every chapter but the first one finds it.
    pub async fn begin(&self) {
        self.sure("systemctl start hairpin");
        self.link("hairpin link").await;
    }

    /// A line of a document, done as it stands.
    pub async fn type_line(&self, line: &str) {
        let line = line.replace("cargo run --release -- ", "hairpin ");
        self.prepare(&line).await;
        if line.contains("hairpin serve") {
            self.serve(&line).await;
        } else if line.contains("hairpin link") {
            self.link(&line).await;
        } else {
            self.sure(&line);
        }
    }

    /// What the text around a line has told the reader to do before.
    async fn prepare(&self, line: &str) {
        let is = |word: &str| line.contains(&format!("hairpin {word}"));
        if is("restore") || is("start-over") || is("serve") {
            self.sure("systemctl stop hairpin");
        } else if is("link") || is("unlink") || line.contains("curl ") {
            self.sure("systemctl start hairpin");
        }
        let linked = |machine: &Self| machine.sure("hairpin status").contains(MASKED);
        if is("link") && linked(self) {
            self.connected().await;
            self.sure("hairpin unlink");
        }
        if is("unlink") || line.contains("/readyz") {
            if linked(self) {
                self.connected().await;
            } else {
                self.link("hairpin link").await;
            }
        }
        if is("restore") && !self.at("usb/hairpin.backup").exists() {
            self.sure("hairpin backup /media/usb/hairpin.backup");
        }
        let renewed = line.contains("tls-cert.pem") || line.contains("--force");
        if renewed && !self.data().join("tls-cert.pem").exists() {
            self.sure("hairpin tls-self-signed");
        }
    }

    async fn connected(&self) {
        let wait = async {
            while !self.sure("hairpin status").contains("CONNECTED") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.expect("connected again");
    }

    /// Runs a line to its end; what it printed.
    pub fn run(&self, line: &str) -> Output {
        self.shell(line).stdin(Stdio::null()).output().expect("run")
    }

    /// Runs a line that has to succeed; its output.
    #[track_caller]
    pub fn sure(&self, line: &str) -> String {
        let ran = self.run(line);
        assert!(ran.status.success(), "{line}: {ran:?}");
        String::from_utf8(ran.stdout).expect("text")
    }

    /// `hairpin link`: the number is typed when it is asked for, and the code on the phone.
    async fn link(&self, line: &str) {
        let mut terminal = Terminal::of(self.shell(line));
        terminal.write("8 900 123-45-67\n");
        let code = terminal.code().await;
        let phone = self.sim.phone(ANNA);
        phone.enter_code(&code).await.expect("linked");
        let said: Said = terminal.ended().await;
        assert!(said.answer().contains("is linked."), "{line}: {said:?}");
    }

    /// `hairpin serve`: until it says where the page is.
    async fn serve(&self, line: &str) {
        // The shell gives way to the program, which gets the signal.
        let mut terminal = Terminal::of(self.shell(&format!("exec {line}")));
        terminal.says("Hairpin is at http").await;
        if line.contains("--open-key") {
            terminal.says("#key=").await;
        }
        terminal.signal(rustix::process::Signal::TERM);
        assert_eq!(terminal.ended().await.code, Some(0), "{line}");
    }

    fn shell(&self, line: &str) -> Command {
        let address = fs::read_to_string(self.at("address")).unwrap_or_default();
        let show = |path: &Path| path.display().to_string();
        let mut line = line
            .replace("/media/usb", &show(&self.at("usb")))
            .replace("/var/lib/hairpin", &show(&self.data()));
        if line.contains("curl ") {
            line = line.replace("127.0.0.1:7247", address.trim());
        }
        let mut command = Command::new("sh");
        command
            .args(["-eu", "-c", &line])
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", show(&self.at("bin"))))
            .env("HOME", self.folder.path())
            .env("STATE", self.folder.path())
            .env("HAIRPIN_DATA_DIR", self.data())
            .env("HAIRPIN_LISTEN", "127.0.0.1:0")
            .env("HAIRPIN_WHATSAPP_URL", self.sim.url())
            .env("HAIRPIN_PAIRING_REQUESTS_PER_NUMBER", "0")
            .env("HAIRPIN_BACKUP_PASSPHRASE", "correct horse battery")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Nothing is left running.
    pub fn end(self) {
        self.sure("systemctl stop hairpin");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Stopped already, unless a test failed.
        let _ = self.run("systemctl stop hairpin");
    }
}
