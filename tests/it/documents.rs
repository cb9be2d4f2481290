//! The documents against the program: every command line in them is run here as it stands, on a machine with a simulated
//! WhatsApp, or stands in the list of what is run elsewhere; every text they quote is one that people really see.

mod machine;
mod words;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use hairpin::cli;
use hairpin::config::{Settings, Sources};

pub use machine::Machine;

/// Where the package is installed for real.
const INSTALL: &str = "packaging/tests/install";

/// Why a line is not run here.
enum Elsewhere {
    /// A file runs it, and has these words.
    Runs(&'static str, &'static str),
    /// Nobody runs it, and why that is right.
    Nobody(&'static str),
}

use Elsewhere::{Nobody, Runs};

/// Lines that are not run here: what the system does, and what has a test of its own.
const ELSEWHERE: &[(&str, Elsewhere)] = &[
    (
        "cargo run --release --example demo",
        Nobody("the gate builds it; it waits for a person"),
    ),
    ("tests/run", Nobody("the gate itself")),
    (
        "HAIRPIN_SHIPPED=target/release/hairpin HAIRPIN_DEB=hairpin_0.1.0_amd64.deb cargo bench --bench footprint",
        Nobody("by hand: a figure, no promise"),
    ),
    (
        "cargo test --workspace --test it -- --ignored --nocapture --test-threads=1 power_cut::",
        Runs(
            "tests/run",
            "--ignored --nocapture --test-threads=1 power_cut::",
        ),
    ),
    (
        "sudo apt install ./hairpin_0.1.0_amd64.deb",
        Runs(
            INSTALL,
            "apt-get install -y --no-install-recommends /root/hairpin.deb",
        ),
    ),
    (
        "sudo apt remove hairpin",
        Runs(INSTALL, "apt-get remove -y hairpin"),
    ),
    (
        "sudo apt purge hairpin",
        Runs(INSTALL, "apt-get purge -y hairpin"),
    ),
    (
        "dpkg --verify hairpin",
        Runs(INSTALL, "dpkg --verify hairpin"),
    ),
    (
        "systemctl status hairpin --no-pager",
        Runs(INSTALL, "systemctl status hairpin --no-pager"),
    ),
    (
        "sudo systemctl start hairpin-backup.service",
        Runs(INSTALL, "systemctl start hairpin-backup.service"),
    ),
    (
        "sudo systemctl enable --now hairpin-backup.timer",
        Runs(INSTALL, "systemctl enable --now hairpin-backup.timer"),
    ),
    (
        "systemctl list-timers hairpin-backup.timer --no-pager",
        Runs(
            INSTALL,
            "systemctl list-timers hairpin-backup.timer --no-pager",
        ),
    ),
    (
        "sudo journalctl -u hairpin -b --no-pager",
        Runs(INSTALL, "sudo journalctl -u hairpin -b --no-pager"),
    ),
    (
        "sudo journalctl -u hairpin -b --no-pager --lines=20",
        Runs(
            INSTALL,
            "sudo journalctl -u hairpin -b --no-pager --lines=20",
        ),
    ),
    (
        "sudo journalctl -u hairpin --since today --no-pager",
        Runs(
            INSTALL,
            "sudo journalctl -u hairpin --since today --no-pager",
        ),
    ),
    (
        "sudo journalctl --vacuum-size=100M",
        Runs(INSTALL, "sudo journalctl --vacuum-size=100M"),
    ),
    ("timedatectl", Runs(INSTALL, "timedatectl")),
    (
        "ss --listening --tcp --numeric",
        Runs(INSTALL, "ss --listening --tcp --numeric"),
    ),
    ("sudo ufw allow 7247/tcp", Nobody("the firewall's own")),
    ("sudo tailscale serve --bg 7247", Nobody("Tailscale's own")),
    (
        "curl --silent --show-error --output /dev/null --write-out '%{http_code}\\n' https://web.whatsapp.com/",
        Nobody("leaves the machine"),
    ),
    (
        "sudo mkdir -p -m 700 /etc/credstore.encrypted",
        Runs(INSTALL, "mkdir -p -m 700 /etc/credstore.encrypted"),
    ),
    (
        "systemd-ask-password -n 'Passphrase:' | sudo systemd-creds encrypt --name=hairpin-backup-passphrase - /etc/credstore.encrypted/hairpin-backup-passphrase",
        Runs(
            INSTALL,
            "--name=hairpin-backup-passphrase - /etc/credstore.encrypted/hairpin-backup-passphrase",
        ),
    ),
    (
        "head -c 32 /dev/urandom | sudo systemd-creds encrypt --name=hairpin-key - /etc/credstore.encrypted/hairpin-key",
        Runs(
            INSTALL,
            "--name=hairpin-key - /etc/credstore.encrypted/hairpin-key",
        ),
    ),
    (
        "sudo systemd-creds decrypt --name=hairpin-key /etc/credstore.encrypted/hairpin-key - | sudo systemd-creds encrypt --name=hairpin-key-old - /etc/credstore.encrypted/hairpin-key-old",
        Runs(
            INSTALL,
            "sudo systemd-creds decrypt --name=hairpin-key /etc/credstore.encrypted/hairpin-key - | sudo systemd-creds encrypt --name=hairpin-key-old - /etc/credstore.encrypted/hairpin-key-old",
        ),
    ),
    (
        "sudo rm /etc/credstore.encrypted/hairpin-key-old",
        Runs(INSTALL, "sudo rm /etc/credstore.encrypted/hairpin-key-old"),
    ),
    (
        "sudo systemd-run --pipe --wait --collect --quiet -p LoadCredentialEncrypted=hairpin-key hairpin restore /var/backups/hairpin/hairpin-2026-01-31.backup",
        Runs(
            INSTALL,
            "sudo systemd-run --pipe --wait --collect --quiet -p LoadCredentialEncrypted=hairpin-key hairpin restore /var/backups/hairpin/hairpin-",
        ),
    ),
    (
        "sudo systemd-run --pipe --wait --collect --quiet -p LoadCredentialEncrypted=hairpin-key hairpin check",
        Runs(
            INSTALL,
            "sudo systemd-run --pipe --wait --collect --quiet -p LoadCredentialEncrypted=hairpin-key hairpin check",
        ),
    ),
];

/// Those with commands that are run here; all others hold none.
const RUN_HERE: [&str; 5] = [
    "README.md",
    "docs/TROUBLESHOOTING.md",
    "docs/backup.md",
    "docs/operations.md",
    "packaging/man/hairpin.1",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn is_markdown(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|kind| kind == "md")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).expect(name)
}

/// Everything that people are given to read.
fn documents() -> Vec<String> {
    let mut names = vec!["README.md".to_owned(), "CHANGELOG.md".to_owned()];
    for folder in ["docs", "packaging/man"] {
        for entry in std::fs::read_dir(root().join(folder)).expect(folder) {
            let path: PathBuf = entry.expect("an entry").path();
            if path.extension().is_some_and(|kind| kind != "png") {
                let name = path.strip_prefix(root()).expect("inside");
                names.push(name.to_str().expect("text").to_owned());
            }
        }
    }
    names.sort();
    names
}

/// A block of a document that is not prose, and what it is written in.
pub struct Block {
    kind: String,
    pub lines: Vec<String>,
}

/// The fenced blocks, and the indented ones: those are commands.
pub fn blocks(name: &str) -> Vec<Block> {
    let text = read(name);
    if name.ends_with(".1") || name.ends_with(".5") {
        return man_blocks(&text, if name.ends_with(".1") { "sh" } else { "toml" });
    }
    let mut found: Vec<Block> = Vec::new();
    let mut fenced = false;
    let mut indented = false;
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("```") {
            fenced = !fenced;
            indented = false;
            if fenced {
                found.push(Block {
                    kind: kind.to_owned(),
                    lines: Vec::new(),
                });
            }
        } else if fenced {
            let block = found.last_mut().expect("open");
            block.lines.push(line.to_owned());
        } else if let Some(line) = line.strip_prefix("    ") {
            if !indented {
                found.push(Block {
                    kind: "sh".to_owned(),
                    lines: Vec::new(),
                });
            }
            indented = true;
            let block = found.last_mut().expect("open");
            block.lines.push(line.to_owned());
        } else {
            indented = false;
        }
    }
    assert!(!fenced, "{name}: a block is not closed");
    found
}

fn man_blocks(text: &str, kind: &str) -> Vec<Block> {
    text.split("\n.EX\n")
        .skip(1)
        .map(|rest| Block {
            kind: kind.to_owned(),
            lines: rest
                .split("\n.EE\n")
                .next()
                .expect("closed")
                .lines()
                .map(|line| line.replace("\\-", "-").replace("\\(aq", "'"))
                .collect(),
        })
        .collect()
}

/// The command lines of a document, without their remarks.
fn commands(name: &str) -> Vec<String> {
    blocks(name)
        .into_iter()
        .filter(|block| block.kind == "sh")
        .flat_map(|block| block.lines)
        .map(|line| {
            let command = line.split("  #").next().unwrap_or_default();
            command.trim_end().to_owned()
        })
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

fn is_elsewhere(line: &str) -> bool {
    ELSEWHERE.iter().any(|(known, _)| *known == line)
}

/// Runs a document's commands, one after the other.
async fn follow(name: &str) {
    let machine = Machine::new().await;
    machine.begin().await;
    let mut ran = 0;
    for line in commands(name) {
        if !is_elsewhere(&line) {
            machine.type_line(&line).await;
            ran += 1;
        }
    }
    assert!(ran > 0, "{name} has commands");
    machine.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_in_the_readme_does_what_it_says() {
    follow("README.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_in_troubleshooting_does_what_it_says() {
    follow("docs/TROUBLESHOOTING.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_in_the_chapter_on_backups_does_what_it_says() {
    follow("docs/backup.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_in_operations_does_what_it_says() {
    follow("docs/operations.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_in_the_man_page_does_what_it_says() {
    follow("packaging/man/hairpin.1").await;
}

#[test]
fn no_document_holds_a_command_that_nobody_runs() {
    let mut stale: BTreeSet<&str> = ELSEWHERE.iter().map(|(line, _)| *line).collect();
    for name in documents() {
        for block in blocks(&name) {
            let known = ["sh", "toml", "nginx", ""].contains(&block.kind.as_str());
            assert!(known, "{name}: nobody reads a block of {:?}", block.kind);
            let command = |line: &&String| {
                let line = line.trim_start_matches("$ ").trim_start_matches("sudo ");
                ["hairpin ", "systemctl ", "cargo ", "apt "]
                    .iter()
                    .any(|word| line.starts_with(word))
            };
            if block.kind != "sh" {
                assert_eq!(block.lines.iter().find(command), None, "{name}: ```sh");
            }
        }
        for line in commands(&name) {
            stale.remove(line.as_str());
            assert!(
                is_elsewhere(&line) || RUN_HERE.contains(&name.as_str()),
                "{name}: nobody runs `{line}`"
            );
        }
    }
    assert!(stale.is_empty(), "in no document any more: {stale:?}");
}

#[test]
fn what_is_run_elsewhere_is_run_there() {
    for (line, how) in ELSEWHERE {
        match how {
            Runs(file, words) => assert!(read(file).contains(words), "{file}: {line}"),
            Nobody(why) => assert!(!why.is_empty(), "{line}"),
        }
    }
}

#[test]
fn every_command_of_the_program_is_shown_in_a_document() {
    let shown: Vec<String> = RUN_HERE.iter().flat_map(|name| commands(name)).collect();
    for sub in cli::command().get_subcommands() {
        let program = format!("hairpin {}", sub.get_name());
        let source = format!("cargo run --release -- {}", sub.get_name());
        assert!(
            shown
                .iter()
                .any(|line| line.contains(&program) || line.contains(&source)),
            "{program}"
        );
    }
}

#[test]
fn every_command_named_in_a_sentence_is_one_that_the_program_knows() {
    let mut seen = 0;
    for name in documents() {
        let text = read(&name);
        let pieces = text
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|_| is_markdown(&name));
        for piece in pieces.filter(|piece| !piece.contains('\n')) {
            let piece = piece.trim_start_matches("sudo ");
            if !piece.starts_with("hairpin ") || piece.contains('…') {
                continue;
            }
            seen += 1;
            let known = cli::command().try_get_matches_from(piece.split(' '));
            // A file that a sentence leaves out is no mistake.
            let fine = known.as_ref().map_or_else(
                |error| error.kind() == clap::error::ErrorKind::MissingRequiredArgument,
                |_| true,
            );
            assert!(fine, "{name}: `{piece}`: {known:?}");
        }
    }
    assert!(seen > 12, "{seen}");
}

#[test]
fn every_settings_file_in_the_documents_is_read() {
    let mut seen = 0;
    for name in documents() {
        for block in blocks(&name).iter().filter(|block| block.kind == "toml") {
            let folder = tempfile::tempdir().expect("a folder");
            let file = folder.path().join("hairpin.toml");
            std::fs::write(&file, block.lines.join("\n")).expect("written");
            let settings = Settings::read(&Sources {
                file: Some(file),
                env: [("HOME".to_owned(), "/home/salon".to_owned())].into(),
                ..Sources::default()
            });
            let served = settings.and_then(|settings| settings.may_serve());
            assert!(served.is_ok(), "{name}: {served:?}");
            seen += 1;
        }
    }
    assert!(seen >= 3, "{seen}");
}
