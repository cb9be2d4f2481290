//! Owns the Node process that has only loaded Baileys: installed once by npm into the target folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::Running;

/// Two of Baileys' dependencies lie on a git host alone: its cryptography is taken from the registry instead (the same program,
/// one version older), its style guide, which is no part of it, left out.
const PACKAGE: &str = r#"{
  "name": "only-baileys",
  "private": true,
  "type": "module",
  "dependencies": { "baileys": "6.17.16" },
  "overrides": { "libsignal": "npm:libsignal@2.0.1", "@whiskeysockets/eslint-config": "file:./nothing" }
}
"#;
const NOTHING: &str = r#"{ "name": "@whiskeysockets/eslint-config", "version": "1.0.0" }"#;
const PROGRAM: &str = "\
import 'baileys';
process.stdout.write('ready\\n');
setInterval(() => {}, 2 ** 30);
";

/// Baileys, and a Node to load it.
pub struct Baileys {
    folder: PathBuf,
    node: PathBuf,
}

impl Baileys {
    /// Installs it, unless an earlier run did; why not, otherwise.
    pub fn installed() -> Result<Self, String> {
        let node = found("node").ok_or("there is no node here (Debian: nodejs npm)")?;
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("only-baileys");
        let write = |name: &str, text: &str| fs::write(folder.join(name), text);
        fs::create_dir_all(folder.join("nothing"))
            .and_then(|()| write("package.json", PACKAGE))
            .and_then(|()| write("nothing/package.json", NOTHING))
            .and_then(|()| write("load.js", PROGRAM))
            .map_err(|error| error.to_string())?;
        if !folder.join("node_modules/baileys").exists() {
            let npm = Command::new("npm")
                .args(["install", "--no-audit", "--no-fund", "--ignore-scripts"])
                .args(["--omit=dev", "--omit=peer", "--omit=optional"])
                .current_dir(&folder)
                .output()
                .map_err(|error| format!("npm: {error}"))?;
            if !npm.status.success() {
                return Err(String::from_utf8_lossy(&npm.stderr).into_owned());
            }
        }
        Ok(Self { folder, node })
    }

    /// Starts it; it is ready once everything is loaded.
    pub fn start(&self) -> (Running, Duration) {
        let mut command = Command::new(&self.node);
        command.arg("load.js").current_dir(&self.folder);
        Running::start(&mut command, "ready")
    }

    /// Everything that npm brought.
    pub fn bytes(&self) -> u64 {
        weight(&self.folder.join("node_modules"))
    }

    /// The interpreter, without the libraries that it shares with others.
    pub fn node_bytes(&self) -> u64 {
        fs::metadata(&self.node).map_or(0, |file| file.len())
    }
}

fn found(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .and_then(|path| path.canonicalize().ok())
}

fn weight(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => weight(&entry.path()),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |file| file.len()),
            _ => 0,
        })
        .sum()
}
