//! What the chapter on trouble must hold: every state, every error code, and nothing quoted that people do not really see.

use std::collections::BTreeMap;

use hairpin::error::Code;
use hairpin::session::State;
use hairpin::words::{Lang, message};
use serde_json::Value;

use super::{documents, is_markdown, read};

const CHAPTER: &str = "docs/TROUBLESHOOTING.md";

/// What the program says in a terminal or to a browser, from the sources that say it.
const SPOKEN: [&str; 7] = [
    "src/exit.rs",
    "src/app.rs",
    "src/app/port.rs",
    "src/cli/reach.rs",
    "src/store/error.rs",
    "src/upkeep.rs",
    "src/web/tls.rs",
];

/// A text with every run of blanks as one.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every text of the page in a language, by its name.
fn page(lang: Lang) -> BTreeMap<String, Vec<String>> {
    let file = format!("static/i18n/{}.json", lang.tag());
    let all: Value = serde_json::from_str(&read(&file)).expect("JSON");
    let texts = |value: &Value| -> Vec<String> {
        match value {
            Value::String(text) => vec![text.clone()],
            Value::Array(list) => list
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            Value::Object(forms) => forms
                .values()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            _ => Vec::new(),
        }
    };
    let all = all.as_object().expect("an object");
    all.iter()
        .map(|(name, value)| (name.clone(), texts(value)))
        .collect()
}

/// The finer reasons that a sentence of its own is told for.
fn told() -> Vec<&'static str> {
    let source = read("src/words.rs");
    let mut told = Vec::new();
    for code in Code::ALL {
        told.push(message(code, None, Lang::En));
        told.push(message(code, None, Lang::Ru));
        for reason in source.split('"').skip(1).step_by(2) {
            told.push(message(code, Some(reason), Lang::En));
        }
    }
    told
}

/// The rows of the table below a heading, each with its cells.
fn table(chapter: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, rest) = chapter.split_once(heading).expect(heading);
    rest.lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

#[test]
fn every_state_has_its_entry_and_the_words_of_the_page() {
    let chapter = read(CHAPTER);
    let rows = table(&chapter, "## Every state\n");
    let names: Vec<&str> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    assert_eq!(names, State::ALL.map(State::as_str));
    let (en, ru) = (page(Lang::En), page(Lang::Ru));
    for (state, row) in State::ALL.into_iter().zip(&rows) {
        let name = match state {
            State::Unlinked => "unlinked.h".to_owned(),
            State::Connecting => "asking.h".to_owned(),
            State::AwaitingCodeEntry => "code.h".to_owned(),
            State::Linking => "linking.h".to_owned(),
            State::Connected => "linked.h".to_owned(),
            other => format!("x.{}", other.as_str()),
        };
        for (cell, page) in row[1..].iter().zip([&en, &ru]) {
            assert_eq!(*cell, format!("“{}”", page[&name][0]));
        }
    }
}

#[test]
fn every_error_code_has_its_entry_and_what_people_read() {
    let chapter = read(CHAPTER);
    let rows = table(&chapter, "## Every error code\n");
    let names: Vec<&str> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    assert_eq!(names, Code::ALL.map(Code::as_str));
    for (code, row) in Code::ALL.into_iter().zip(&rows) {
        for (cell, lang) in row[1..].iter().zip([Lang::En, Lang::Ru]) {
            assert_eq!(*cell, format!("“{}”", message(code, None, lang)));
        }
    }
    // Not in the table alone: the entries name them too.
    let (entries, _) = chapter.split_once("## Every state\n").expect("tables last");
    for name in names.into_iter().chain(State::ALL.map(State::as_str)) {
        let shown = entries.contains(&format!("`{name}`"));
        assert!(shown || name == State::Unlinked.as_str(), "{name}");
    }
}

#[test]
fn what_the_documents_quote_is_what_people_see() {
    let page: Vec<String> = [Lang::En, Lang::Ru]
        .into_iter()
        .flat_map(page)
        .flat_map(|(_, texts)| texts)
        .collect();
    let told = told();
    let spoken = SPOKEN.map(read).concat();
    let mut seen = 0;
    for name in documents().iter().filter(|name| is_markdown(name)) {
        let text = flat(&read(name));
        for quote in text.split('“').skip(1) {
            let quote = quote.split('”').next().expect("closed");
            if quote == "curly quotes" {
                continue;
            }
            seen += 1;
            assert!(
                page.iter().any(|text| text.contains(quote))
                    || told.iter().any(|text| text.contains(quote))
                    || spoken.contains(quote),
                "{name}: nobody sees “{quote}”"
            );
        }
    }
    assert!(seen > 80, "{seen}");
}

#[test]
fn every_entry_has_a_cause_what_happens_by_itself_and_what_to_do() {
    let chapter = read(CHAPTER);
    for entry in chapter.split("\n### ").skip(1) {
        let title = entry.lines().next().expect("a title");
        let entry = entry.split("\n## ").next().expect("an entry");
        if title.contains("service does not start") {
            assert!(entry.contains("| exit code | what it is | by itself | by hand |"));
            continue;
        }
        for part in ["**Cause.**", "**By itself.**", "**By hand.**"] {
            assert_eq!(entry.matches(part).count(), 1, "{title}: {part}");
        }
    }
}

#[test]
fn the_chapter_on_trouble_is_found_by_what_people_say() {
    let titles: Vec<String> = read(CHAPTER)
        .lines()
        .filter(|line| line.starts_with("### "))
        .map(str::to_lowercase)
        .collect();
    for words in [
        "the code never comes",
        "timeout",
        "phone says couldn't link device",
        "another number is shown",
        "linked but nothing connected",
        "the page asks for a key",
        "forgot the key",
        "disk full",
        "passkey",
        "too many codes",
        "banned",
        "locked",
        "outdated",
        "halfway",
        "replaced",
        "damaged",
        "newer version",
        "from another computer",
        "certificate warning",
        "logged out",
    ] {
        assert!(titles.iter().any(|title| title.contains(words)), "{words}");
    }
}

/// A heading's place in a page, as it is linked to.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|letter| match letter {
            ' ' => Some('-'),
            '-' | '_' => Some(letter),
            _ => letter.is_alphanumeric().then_some(letter),
        })
        .collect()
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    let mut seen = 0;
    for name in documents().iter().filter(|name| is_markdown(name)) {
        let text = read(name);
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().expect("closed");
            if link.contains("://") {
                continue;
            }
            seen += 1;
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target = match (file, name.rsplit_once('/')) {
                ("", _) => name.clone(),
                (file, Some((folder, _))) => format!("{folder}/{file}"),
                (file, None) => file.to_owned(),
            };
            let there = super::root().join(&target);
            assert!(there.exists(), "{name}: {link}");
            if !place.is_empty() {
                let found = read(&target)
                    .lines()
                    .any(|line| line.starts_with('#') && anchor(line) == place);
                assert!(found, "{name}: no heading {link}");
            }
        }
    }
    assert!(seen > 50, "{seen}");
}
