//! The files in `packaging/` that are made from the program: man pages, completions, the settings file. What is there must be what
//! the program makes today; `HAIRPIN_WRITE=1 cargo test --workspace --test it packaged::` writes them anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap_complete::Shell;
use hairpin::cli;
use hairpin::config::{KEYS, Settings, Sources, variable};

mod page;
mod settings;

use settings::uncommented;

/// The folder of what a package is made of.
fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging")
}

fn made() -> Vec<(&'static str, String)> {
    let completions = |shell: Shell| {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut cli::command(), "hairpin", &mut text);
        String::from_utf8(text).expect("text")
    };
    vec![
        ("man/hairpin.1", page::program()),
        ("man/hairpin.toml.5", page::settings()),
        ("hairpin.toml", settings::file()),
        ("completions/hairpin.bash", completions(Shell::Bash)),
        ("completions/_hairpin", completions(Shell::Zsh)),
        ("completions/hairpin.fish", completions(Shell::Fish)),
    ]
}

#[test]
fn every_file_that_is_made_from_the_program_is_up_to_date() {
    let write = std::env::var_os("HAIRPIN_WRITE").is_some();
    for (name, text) in made() {
        let path = packaging().join(name);
        if write {
            std::fs::write(&path, &text).expect(name);
        }
        let there = std::fs::read_to_string(&path).expect(name);
        assert!(
            there == text,
            "packaging/{name} is not what the program makes of it: HAIRPIN_WRITE=1 cargo test --workspace --test it packaged::"
        );
    }
}

#[test]
fn the_man_pages_are_whole_and_without_a_warning() {
    for (page, section, words) in [
        (
            "hairpin.1",
            "hairpin(1)",
            [
                "EXIT STATUS",
                "FILES",
                "ENVIRONMENT",
                "EXAMPLES",
                "hairpin.toml(5)",
            ],
        ),
        (
            "hairpin.toml.5",
            "hairpin.toml(5)",
            ["KEYS", "FILES", "ENVIRONMENT", "EXAMPLES", "hairpin(1)"],
        ),
    ] {
        let path = packaging().join("man").join(page);
        let shown = Command::new("man")
            .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8"])
            .arg(path)
            .env("LC_ALL", "C.UTF-8")
            .env("MANROFFSEQ", "")
            .env("MANWIDTH", "100")
            .env("GROFF_NO_SGR", "1")
            .output()
            .expect("man is there (Debian: man-db, groff)");
        let complaints = String::from_utf8_lossy(&shown.stderr).into_owned();
        assert!(
            shown.status.success() && complaints.is_empty(),
            "{complaints}"
        );
        // Overstriking makes bold on a terminal.
        let shown = String::from_utf8(shown.stdout).expect("text");
        let mut text = String::new();
        for letter in shown.chars() {
            if letter == '\u{8}' {
                text.pop();
            } else {
                text.push(letter);
            }
        }
        for word in words.iter().chain([&section]) {
            assert!(text.contains(word), "{page} lacks {word}: {text}");
        }
        assert!(!text.contains(['`', '´']), "{page}: {text}");
    }
}

#[test]
fn the_man_page_has_every_command_every_option_and_every_exit_code() {
    let page = std::fs::read_to_string(packaging().join("man/hairpin.1")).expect("a page");
    let plain = page
        .replace("\\-", "-")
        .replace("\\fB", "")
        .replace("\\fR", "");
    let command = cli::command();
    for sub in command.get_subcommands() {
        assert!(
            plain.contains(&format!("\n.SS hairpin {}\n", sub.get_name())),
            "{}",
            sub.get_name()
        );
        for argument in sub.get_arguments() {
            if let Some(long) = argument.get_long() {
                assert!(plain.contains(&format!("--{long}")), "{long}");
            }
        }
    }
    let (_, exits) = page.split_once(".SH \"EXIT STATUS\"").expect("a section");
    for code in 0..=5 {
        assert!(exits.contains(&format!("\n.B {code}\n")), "{code}");
    }
}

#[test]
fn bash_completes_commands_and_options() {
    let script = packaging().join("completions/hairpin.bash");
    for (typed, wanted) in [("st", "status start-over"), ("serve --li", "--listen")] {
        let words: Vec<&str> = typed.split(' ').collect();
        let line = format!(
            "source '{}'; COMP_WORDS=(hairpin {typed}); COMP_CWORD={}; _hairpin hairpin {} x; echo \"${{COMPREPLY[*]}}\"",
            script.display(),
            words.len(),
            words.last().expect("a word")
        );
        let bash = Command::new("bash")
            .args(["--norc", "-c", &line])
            .output()
            .expect("bash");
        assert_eq!(
            String::from_utf8_lossy(&bash.stdout).trim(),
            wanted,
            "{bash:?}"
        );
    }
}

#[test]
fn the_settings_page_and_file_have_every_key() {
    let page = std::fs::read_to_string(packaging().join("man/hairpin.toml.5")).expect("a page");
    let file = std::fs::read_to_string(packaging().join("hairpin.toml")).expect("a file");
    let all = read(&uncommented(&file)).1;
    for key in KEYS {
        assert!(
            page.contains(&format!("\n.B {}\n", key.name)),
            "{}",
            key.name
        );
        assert!(page.contains(&variable(key.name)), "{}", key.name);
        assert!(all.contains(key.name), "{}", key.name);
    }
}

/// Reads a settings file with the program's own reader; and the keys that it names.
fn read(text: &str) -> (Settings, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("hairpin.toml");
    std::fs::write(&file, text).expect("written");
    let settings = Settings::read(&Sources {
        file: Some(file),
        flags: BTreeMap::new(),
        env: BTreeMap::from([("HOME".to_owned(), "/home/salon".to_owned())]),
    })
    .expect("settings");
    let mut keys = String::new();
    for (name, value) in text.parse::<toml::Table>().expect("TOML") {
        match value {
            toml::Value::Table(group) => {
                for key in group.keys() {
                    keys.push_str(&format!("{name}.{key}\n"));
                }
            }
            _ => keys.push_str(&format!("{name}\n")),
        }
    }
    (settings, keys)
}

#[test]
fn the_packages_settings_file_sets_two_places_and_leaves_the_rest_as_it_is() {
    let file = std::fs::read_to_string(packaging().join("hairpin.toml")).expect("a file");
    let (mut settings, keys) = read(&file);
    assert_eq!(keys, "control_socket\ndata_dir\n");
    assert_eq!(settings.data_dir, Path::new("/var/lib/hairpin"));
    assert_eq!(
        settings.control_socket,
        Path::new("/run/hairpin/control.sock")
    );
    let (defaults, _) = read("");
    settings.data_dir.clone_from(&defaults.data_dir);
    settings.control_socket.clone_from(&defaults.control_socket);
    assert_eq!(settings, defaults);
}

#[test]
fn the_packages_settings_file_without_its_comment_marks_is_read_and_serves() {
    let file = std::fs::read_to_string(packaging().join("hairpin.toml")).expect("a file");
    let (mut settings, keys) = read(&uncommented(&file));
    assert_eq!(keys.lines().count(), KEYS.len(), "{keys}");
    assert!(settings.tls.is_some() && settings.whatsapp_url.is_some());
    settings.may_serve().expect("good enough to serve");
    let (defaults, _) = read("");
    settings.data_dir.clone_from(&defaults.data_dir);
    settings.control_socket.clone_from(&defaults.control_socket);
    settings.tls = None;
    settings.whatsapp_url = None;
    assert_eq!(
        settings, defaults,
        "what stands behind a comment mark is the default"
    );
}
