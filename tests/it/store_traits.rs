//! Owns what upstream's store traits demand, read from the very source this program is built with: an addition there
//! shows here before it can slip past the store or its tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::store_calls;

/// The names of a block's functions, and whether each has a body.
type Functions = BTreeMap<String, bool>;

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// The traits' source, of the version in use and wherever cargo has it.
fn traits_file() -> PathBuf {
    let version = cargo(&["-vV"]);
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("cargo says its host");
    // Only what this machine needs has been fetched.
    let metadata = cargo(&[
        "metadata",
        "--format-version=1",
        "--offline",
        "--locked",
        "--filter-platform",
        host,
    ]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("JSON");
    let manifests: Vec<&str> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .filter(|package| package["name"] == "wacore")
        .filter_map(|package| package["manifest_path"].as_str())
        .collect();
    let [manifest] = manifests[..] else {
        panic!("not one wacore, but {manifests:?}");
    };
    Path::new(manifest).with_file_name("src/store/traits.rs")
}

/// Without comments and the contents of literals, so that braces mean blocks.
fn code(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").expect("a comment ends") + 2
        } else if first == '"' {
            let mut escaped = false;
            let end = rest[1..]
                .find(|c: char| {
                    let end = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    end
                })
                .expect("a literal ends");
            end + 2
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[skip..];
    }
    code
}

/// The functions of the block that begins with the header; `None` where there is no such block.
fn functions(code: &str, header: &str) -> Option<Functions> {
    let at = code.find(header)?;
    let body = &code[at + code[at..].find('{')? + 1..];
    let mut functions = Functions::new();
    let (mut depth, mut open): (u32, Option<String>) = (0, None);
    let mut words = body
        .split_inclusive(|c: char| !(c.is_alphanumeric() || c == '_'))
        .peekable();
    let mut previous = "";
    for word in &mut words {
        let name = word.trim_end_matches(|c: char| !(c.is_alphanumeric() || c == '_'));
        if depth == 0 && previous == "fn" {
            open = Some(name.to_owned());
        }
        if !name.is_empty() {
            previous = name;
        }
        match word.chars().next_back() {
            // A body opens, or a block or an array type inside of something.
            Some('{' | '(' | '[') => {
                if depth == 0
                    && word.ends_with('{')
                    && let Some(name) = open.take()
                {
                    functions.insert(name, true);
                }
                depth += 1;
            }
            Some(';') if depth == 0 => {
                if let Some(name) = open.take() {
                    functions.insert(name, false);
                }
            }
            Some('}') if depth == 0 => return Some(functions),
            Some('}' | ')' | ']') => depth -= 1,
            _ => {}
        }
    }
    panic!("the block {header} does not end");
}

/// Upstream's store traits: their methods, and whether each has a default.
fn upstream() -> BTreeMap<String, Functions> {
    let source = code(&std::fs::read_to_string(traits_file()).expect("the traits' source"));
    // What a backend is: `pub trait Backend: A + B + … + Send + Sync`.
    let (_, rest) = source
        .split_once("pub trait Backend:")
        .expect("a backend trait");
    let (supertraits, _) = rest.split_once('{').expect("a block");
    supertraits
        .split('+')
        .map(str::trim)
        .filter(|name| !["Send", "Sync"].contains(name))
        .map(|name| {
            let functions =
                functions(&source, &format!("pub trait {name}")).expect("declared in the file");
            (name.to_owned(), functions)
        })
        .collect()
}

/// Ours, by trait.
fn ours() -> BTreeMap<String, Functions> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/backend");
    let mut ours = BTreeMap::new();
    for file in std::fs::read_dir(folder).expect("the backend's folder") {
        let source = std::fs::read_to_string(file.expect("a file").path()).expect("text");
        let source = code(&source);
        for (at, _) in source.match_indices(" for EpochBackend") {
            let name = source[..at].split_whitespace().next_back().expect("a name");
            let header = format!("impl {name} for EpochBackend");
            ours.insert(
                name.to_owned(),
                functions(&source, &header).expect("an implementation"),
            );
        }
    }
    ours
}

fn names(functions: &Functions) -> BTreeSet<&str> {
    functions.keys().map(String::as_str).collect()
}

#[test]
fn every_method_of_upstreams_store_traits_is_our_own_its_defaults_included() {
    let ours = ours();
    for (name, functions) in upstream() {
        let implemented = ours
            .get(&name)
            .unwrap_or_else(|| panic!("{name} is implemented in src/store/backend"));
        // A default loops over single puts, or answers without looking at the epoch.
        assert_eq!(names(implemented), names(&functions), "{name}");
    }
}

#[test]
fn every_method_of_upstreams_store_traits_is_among_the_calls_of_the_tests() {
    let upstream = upstream();
    let mut known = BTreeSet::new();
    for store in store_calls::traits() {
        let functions = upstream
            .get(store.name)
            .unwrap_or_else(|| panic!("{} is upstream's", store.name));
        let called: BTreeSet<&str> = store.methods.iter().map(|method| method.name).collect();
        assert_eq!(called, names(functions), "{}", store.name);
        assert_eq!(
            called.len(),
            store.methods.len(),
            "{}: each once",
            store.name
        );
        known.insert(store.name);
    }
    assert_eq!(
        known,
        upstream.keys().map(String::as_str).collect(),
        "the traits themselves"
    );
}

#[test]
fn the_reader_of_traits_sees_what_is_declared_and_what_has_a_body() {
    let source = code(
        "/// fn not_this() {}\npub trait A: Send { async fn one(&self, x: &[(&str, [u8; 3])]) -> R<Option<u8>>;\n\
         fn two(&self) { fn inner() {} \"}\"; if x { y } } /* fn three(); */ }\n\
         impl A for B { fn four(&self) {} }",
    );
    let declared = functions(&source, "pub trait A").expect("there");
    let wanted = [("one".to_owned(), false), ("two".to_owned(), true)];
    assert_eq!(declared, Functions::from(wanted));
    let implemented = functions(&source, "impl A for B").expect("there");
    assert_eq!(names(&implemented), BTreeSet::from(["four"]));
    assert_eq!(functions(&source, "pub trait C"), None);
    // And on the real thing: both kinds.
    let signal = &upstream()["SignalStore"];
    assert_eq!(signal.get("put_identity"), Some(&false));
    assert_eq!(signal.get("put_identities_batch"), Some(&true));
}
