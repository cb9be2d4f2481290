//! Every file of the fuzz corpus keeps its promises without an instrumented build: `fuzz/run` looks for further ones.

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 7] = [
    ("backup", targets::backup::run),
    ("head", targets::head::run),
    ("message", targets::message::run),
    ("phone", targets::phone::run),
    ("record", targets::record::run),
    ("settings", targets::settings::run),
    ("store", targets::store::run),
];

fn names(folder: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.into_string().expect("a plain name"))
        .collect();
    names.sort();
    names
}

/// Runs a target with everything that is kept for it.
fn replay(wanted: &str) {
    let (name, run) = TARGETS
        .iter()
        .find(|(name, _)| *name == wanted)
        .expect("a target");
    let files = names(&format!("fuzz/corpus/{name}"));
    assert!(files.len() >= 10, "{name}: hardly a corpus");
    for file in files {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(name)
            .join(&file);
        let input = std::fs::read(&path).expect("readable");
        // The panic has told what; this tells with what.
        assert!(
            std::panic::catch_unwind(|| run(&input)).is_ok(),
            "fuzz/corpus/{name}/{file} breaks a promise"
        );
    }
}

#[test]
fn every_kind_of_input_that_is_fuzzed_has_its_corpus_and_is_replayed_here() {
    let replayed = TARGETS.map(|(name, _)| name.to_owned());
    assert_eq!(names("fuzz/corpus"), replayed);
    let binaries = names("fuzz/fuzz_targets");
    assert_eq!(binaries, replayed.map(|name| format!("{name}.rs")));
}

#[test]
fn every_message_of_the_corpus_is_understood_as_it_was_meant_or_refused() {
    replay("message");
}

#[test]
fn every_head_of_the_corpus_is_let_in_only_where_a_browser_means_us() {
    replay("head");
}

#[test]
fn every_number_of_the_corpus_is_the_same_in_all_its_spellings() {
    replay("phone");
}

#[test]
fn every_record_of_the_corpus_is_damage_or_written_as_it_was_read() {
    replay("record");
}

#[test]
fn every_settings_file_of_the_corpus_is_sound_or_refused_in_one_line() {
    replay("settings");
}

#[test]
fn every_backup_of_the_corpus_that_was_changed_stays_closed() {
    replay("backup");
}

#[test]
fn every_damaged_store_of_the_corpus_answers_right_or_not_at_all() {
    replay("store");
}
