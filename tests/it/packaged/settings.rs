//! The settings file that the package installs, made from the list of keys: every key with what it means and its default, all
//! of them commented out but the two places that commands at a terminal have to know.

use hairpin::config::KEYS;

use super::page::wrapped;

/// Where the package keeps things; a command typed by root must find them without being told.
const SET: [&str; 2] = ["data_dir", "control_socket"];

const HEAD: &str = "\
# Settings of Hairpin. Every key is here: a key behind a # has the value that holds without it, or an example where it says so.
# A change counts after \"systemctl restart hairpin\". The environment (HAIRPIN_LISTEN, HAIRPIN_WEB_PLAIN_HTTP, ...) beats this
# file. See hairpin.toml(5).
";

pub fn file() -> String {
    let mut text = HEAD.to_owned();
    let mut group = "";
    for key in KEYS {
        let (of, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if of != group {
            group = of;
            text.push_str(&format!("\n[{group}]\n"));
        }
        text.push('\n');
        for line in wrapped(key.help, 98) {
            text.push_str(&format!("# {line}\n"));
        }
        let set = SET.contains(&key.name);
        if let Some(unset) = key.unset {
            let example = if set {
                "Without it"
            } else {
                "An example; without it"
            };
            for line in wrapped(&format!("{example}: {unset}."), 98) {
                text.push_str(&format!("# {line}\n"));
            }
        }
        let mark = if set { "" } else { "#" };
        text.push_str(&format!("{mark}{name} = {}\n", key.value));
    }
    text
}

/// The file with every setting in force. Prose has a blank after its mark, a setting has none.
pub fn uncommented(file: &str) -> String {
    let mut text = String::new();
    for line in file.lines() {
        let setting = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
        text.push_str(setting.unwrap_or(line));
        text.push('\n');
    }
    text
}
