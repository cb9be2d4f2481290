//! The commands in the chapter on backups, run as they stand there, one after the other, on one machine.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use hairpin_sim::Sim;

use crate::backup::filled;
use crate::terminal::run;

/// The indented blocks of a chapter, each with its lines.
fn commands(chapter: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block = String::new();
    for line in chapter.lines().chain([""]) {
        match line.strip_prefix("    ") {
            Some(command) => {
                block.push_str(command);
                block.push('\n');
            }
            None if block.is_empty() => {}
            None => blocks.push(std::mem::take(&mut block)),
        }
    }
    blocks
}

fn script(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("made so");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_about_backups_does_what_the_chapter_says() {
    let sim = Sim::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let data = at("data");
    filled(&data).await.close().await;
    std::fs::create_dir(at("usb")).expect("made");
    std::fs::create_dir(at("bin")).expect("made");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_hairpin"), at("bin/hairpin")).expect("linked");
    // What systemd does: an answer only once it is done.
    script(
        &at("bin/systemctl"),
        r#"#!/bin/sh -eu
[ "$2" = hairpin ]
case "$1" in
    start)
        mkfifo "$STATE/ready"
        hairpin serve --listen 127.0.0.1:0 --whatsapp-url "$SIM" > "$STATE/ready" 2> "$STATE/log" &
        echo $! > "$STATE/pid"
        read -r line < "$STATE/ready"
        rm "$STATE/ready"
        ;;
    stop)
        kill "$(cat "$STATE/pid")"
        tail --pid="$(cat "$STATE/pid")" -f /dev/null
        ;;
    *) exit 1 ;;
esac
"#,
    );
    let sh = |text: &str| {
        Command::new("sh")
            .args(["-eu", "-c", text])
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", at("bin").display()))
            .env("HAIRPIN_DATA_DIR", &data)
            .env("HAIRPIN_BACKUP_PASSPHRASE", "correct horse battery")
            .env("STATE", folder.path())
            .env("SIM", sim.url())
            .stdin(Stdio::null())
            .output()
            .expect("run")
    };
    let chapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/backup.md");
    let chapter = std::fs::read_to_string(chapter).expect("readable");
    let blocks = commands(&chapter);
    assert_eq!(blocks.len(), 4, "{blocks:?}");
    assert!(sh("systemctl start hairpin").status.success());
    let mut said = Vec::new();
    for block in &blocks {
        let usb = at("usb").display().to_string();
        let ran = sh(&block.replace("/media/usb", &usb));
        let out = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success(), "{block}: {ran:?}");
        said.push(out);
    }
    let status = run(&data, &["status"]);
    assert!(sh("systemctl stop hairpin").status.success());
    for (out, word) in said.iter().zip([
        "Only its passphrase opens it.",
        "Set aside: ",
        "is sound.",
        "Set aside: ",
    ]) {
        assert!(out.contains(word), "{word}: {out}");
    }
    // Started over: nothing of the old store is left in the way, and all of it is there.
    assert!(status.answer().starts_with("salon  UNLINKED"), "{status:?}");
    let aside = std::fs::read_dir(&data).expect("a folder").filter(|entry| {
        let name = entry.as_ref().expect("an entry").file_name();
        name.to_string_lossy().starts_with("hairpin.redb.20")
    });
    assert_eq!(aside.count(), 2);
}

#[test]
fn a_chapters_commands_are_its_indented_lines() {
    assert_eq!(
        commands("text\n\n    one\n    two\n\nmore\n    three"),
        ["one\ntwo\n", "three\n"]
    );
}
