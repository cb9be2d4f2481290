//! The two man pages: options and descriptions from the program's own definition, the rest written here.

use clap::{Arg, Command};
use clap_mangen::Man;
use hairpin::cli;
use hairpin::config::{KEYS, variable};

const DIRECTORIES: &str =
    "Where the store and the socket are, given by systemd or by the login; see hairpin.toml(5).";

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "HAIRPIN_LISTEN, HAIRPIN_DATA_DIR, HAIRPIN_WEB_PLAIN_HTTP, ...",
        "Every setting of hairpin.toml(5): its name in capitals, dots as underscores. Flags beat them, they beat the file. \
        Lists are separated by commas.",
    ),
    (
        "HAIRPIN_BACKUP_PASSPHRASE",
        "The passphrase of backup and restore; without it it is asked for.",
    ),
    (
        "HAIRPIN_LOG",
        "How much is logged: error, warn, info (the default), debug or trace. No level shows a whole number, a code or a key.",
    ),
    (
        "CREDENTIALS_DIRECTORY",
        "Where systemd puts the credentials hairpin-key (wraps the keys of the store) and hairpin-key-old (the one before it).",
    ),
    (
        "STATE_DIRECTORY, RUNTIME_DIRECTORY, XDG_DATA_HOME, HOME",
        DIRECTORIES,
    ),
];

const FILES: &[(&str, &str)] = &[
    (
        "/etc/hairpin/hairpin.toml",
        "The settings, see hairpin.toml(5).",
    ),
    (
        "/var/lib/hairpin/hairpin.redb, /var/lib/hairpin/hairpin.keys",
        "The store and its keys, mode 0600. One is nothing without the other; copy neither by hand, \"hairpin backup\" does it.",
    ),
    (
        "/var/lib/hairpin/access-key",
        "The key that opens the page.",
    ),
    (
        "/var/lib/hairpin/tls-cert.pem, /var/lib/hairpin/tls-key.pem",
        "What \"hairpin tls-self-signed\" writes.",
    ),
    (
        "/var/lib/hairpin/hairpin.redb.DATE, /var/lib/hairpin/hairpin.keys.DATE",
        "A store that restore or start-over has set aside. Nothing reads it; delete it when it is not wanted any more.",
    ),
    (
        "/run/hairpin/control.sock",
        "Where the commands meet the running appliance, mode 0600.",
    ),
];

const EXAMPLES: &[(&str, &str)] = &[
    ("The key that the page asks for:", "sudo hairpin access-key"),
    ("Link a phone from the terminal:", "sudo hairpin link"),
    ("What is linked, and since when:", "sudo hairpin status"),
    (
        "A backup, to be opened with a passphrase:",
        "sudo hairpin backup /media/usb/hairpin.backup",
    ),
    (
        "Bring it back, here or on another machine:",
        "sudo systemctl stop hairpin\nsudo hairpin restore /media/usb/hairpin.backup\nsudo systemctl start hairpin",
    ),
    (
        "How a number is read, without showing it in the process list:",
        "echo '8 900 123-45-67' | hairpin phone -",
    ),
];

const EXAMPLE_FILE: &str = "\
listen = \"0.0.0.0:7247\"

[web]
tls_cert = \"/var/lib/hairpin/tls-cert.pem\"
tls_key = \"/var/lib/hairpin/tls-key.pem\"
allowed_hosts = [\"salon.example\"]
";

/// hairpin(1).
pub fn program() -> String {
    let command = cli::command();
    let mut page = head("hairpin", "1", "User Commands");
    page.push_str(&of_clap(&command, Man::render_name_section));
    page.push_str(".SH SYNOPSIS\n");
    page.push_str(&format!(
        "{} \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]\n",
        synopsis(&command, "hairpin")
    ));
    page.push_str(&of_clap(&command, Man::render_description_section));
    page.push_str(".SH COMMANDS\n");
    for sub in command.get_subcommands() {
        let name = format!("hairpin {}", sub.get_name());
        page.push_str(&format!(".SS {}\n", text(&name)));
        page.push_str(&format!("{}\n.PP\n", synopsis(sub, &name)));
        // Its own help flag is the one of every command.
        let sub = sub
            .clone()
            .disable_help_flag(true)
            .disable_version_flag(true);
        page.push_str(&inner(&of_clap(&sub, Man::render_description_section)));
        if sub.get_arguments().next().is_some() {
            page.push_str(&inner(&of_clap(&sub, Man::render_options_section)));
        }
    }
    page.push_str(".SH OPTIONS\nWith every command:\n");
    page.push_str(&inner(&of_clap(&command, Man::render_options_section)));
    page.push_str(".SH \"EXIT STATUS\"\n");
    for (code, meaning) in exit_codes(&command) {
        page.push_str(&format!(".TP\n.B {code}\n{}\n", text(&meaning)));
    }
    page.push_str(&list("ENVIRONMENT", "B", ENVIRONMENT));
    page.push_str(&list("FILES", "I", FILES));
    page.push_str(&format!(
        ".PP\n{}\n",
        text("Under /var/lib/hairpin and /run/hairpin with the package; elsewhere where data_dir and control_socket say.")
    ));
    page.push_str(".SH EXAMPLES\n");
    for (what, example) in EXAMPLES {
        page.push_str(&format!("{}\n{}", text(what), code(example)));
    }
    page.push_str(
        ".SH \"SEE ALSO\"\n.BR hairpin.toml (5),\n.BR systemctl (1),\n.BR journalctl (1),\n.BR systemd\\-creds (1)\n.PP\n",
    );
    page.push_str(&format!(
        "{}\n",
        text("/usr/share/doc/hairpin has the chapters on operations, backups and what to do when something goes wrong.")
    ));
    page
}

/// hairpin.toml(5).
pub fn settings() -> String {
    let mut page = head("hairpin.toml", "5", "File Formats");
    page.push_str(".SH NAME\nhairpin.toml \\- settings of the Hairpin appliance\n");
    page.push_str(".SH SYNOPSIS\n.I /etc/hairpin/hairpin.toml\n.SH DESCRIPTION\n");
    for paragraph in [
        "The file is TOML: key = value, with the keys of a group under its name, as in [web]. An unknown key is an error that \
        names the key and its line; nothing is guessed. A bad value ends every command with exit code 2 and one line that says \
        where it stands and how to mend it.",
        "A flag beats the environment, which beats this file, which beats the defaults. A change counts after a restart of the \
        appliance; only certificates are taken anew while it runs. Another file is read with --config.",
    ] {
        page.push_str(&format!("{}\n.PP\n", text(paragraph)));
    }
    page.push_str(".SH KEYS\n");
    for key in KEYS {
        let default = key.unset.unwrap_or(key.value);
        page.push_str(&format!(
            ".TP\n.B {}\n{}\n.br\n{}\n",
            text(key.name),
            text(key.help),
            text(&format!("Default: {default}"))
        ));
    }
    page.push_str(".SH ENVIRONMENT\nEach key has a variable:\n");
    for key in KEYS {
        page.push_str(&format!(
            ".TP\n.B {}\n{}\n",
            variable(key.name),
            text(key.name)
        ));
    }
    page.push_str(".SH FILES\n.TP\n.I /etc/hairpin/hairpin.toml\n");
    page.push_str(&format!(
        "{}\n",
        text("Read when it is there and --config names no other. The package's own sets data_dir and control_socket, so that commands typed by root find the appliance.")
    ));
    page.push_str(".SH EXAMPLES\nThe page on every address of the machine, over HTTPS:\n");
    page.push_str(&code(EXAMPLE_FILE.trim_end()));
    page.push_str(".SH \"SEE ALSO\"\n.BR hairpin (1)\n");
    page
}

fn head(name: &str, section: &str, manual: &str) -> String {
    format!(
        ".\\\" Made from the program; see tests/it/packaged.rs.\n.TH {name} {section} \"\" \"Hairpin {}\" \"{manual}\"\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// A section as `clap_mangen` writes it: without its preamble, and with `code` in bold.
fn of_clap(
    command: &Command,
    render: impl Fn(&Man, &mut dyn std::io::Write) -> std::io::Result<()>,
) -> String {
    let mut written = Vec::new();
    render(&Man::new(command.clone()), &mut written).expect("written");
    let written = String::from_utf8(written).expect("text");
    let mut section = String::new();
    for line in written.lines() {
        if line.starts_with(".ie ") || line.starts_with(".el ") {
            continue;
        }
        let line = line.replace("\\*(Aq", "\\(aq").replace('~', "\\(ti");
        for (place, part) in line.split('`').enumerate() {
            if place > 0 {
                section.push_str(if place % 2 == 1 { "\\fB" } else { "\\fR" });
            }
            section.push_str(part);
        }
        // The program's short help has no full stop; a page of sentences does.
        if line.starts_with(|letter: char| letter.is_ascii_uppercase())
            && line.ends_with(|letter: char| letter.is_alphanumeric() || letter == ')')
        {
            section.push('.');
        }
        section.push('\n');
    }
    section
}

/// What stands below a section's heading.
fn inner(section: &str) -> String {
    let (heading, rest) = section.split_once('\n').expect("a heading");
    assert!(heading.starts_with(".SH "), "{heading}");
    rest.to_owned()
}

fn synopsis(command: &Command, name: &str) -> String {
    let mut line = format!("\\fB{}\\fR", text(name));
    let (places, options): (Vec<&Arg>, Vec<&Arg>) = command
        .get_arguments()
        .filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()))
        .partition(|argument| argument.is_positional());
    for argument in options.into_iter().chain(places) {
        let value = argument.get_value_names().map_or_else(
            || argument.get_id().as_str().to_uppercase(),
            |names| names.join(" "),
        );
        let many = argument.get_action().takes_values()
            && matches!(argument.get_action(), clap::ArgAction::Append);
        let mut shown = String::new();
        if let Some(long) = argument.get_long() {
            shown.push_str(&format!("\\fB{}\\fR", text(&format!("--{long}"))));
        }
        if argument.get_action().takes_values() {
            if !shown.is_empty() {
                shown.push(' ');
            }
            shown.push_str(&format!("\\fI{}\\fR", text(&value)));
        }
        if many {
            shown.push_str("...");
        }
        line.push(' ');
        line.push_str(&if argument.is_required_set() {
            shown
        } else {
            format!("[{shown}]")
        });
    }
    line
}

/// "Exit codes: 0 done, 1 failed, …", taken apart: the help is the one place that names them.
fn exit_codes(command: &Command) -> Vec<(char, String)> {
    let help = command.get_after_help().expect("exit codes").to_string();
    let help = help.replace('\n', " ");
    let (_, codes) = help.split_once(": ").expect("a list");
    let mut found: Vec<(char, String)> = Vec::new();
    for part in codes.trim_end_matches('.').split(", ") {
        match part.split_once(' ') {
            Some((digit, meaning))
                if digit.len() == 1 && digit.starts_with(|c: char| c.is_ascii_digit()) =>
            {
                let digit = digit.chars().next().expect("a digit");
                found.push((digit, meaning.to_owned()));
            }
            _ => {
                let (_, last) = found.last_mut().expect("a code first");
                last.push_str(&format!(", {part}"));
            }
        }
    }
    found
}

fn list(heading: &str, font: &str, items: &[(&str, &str)]) -> String {
    let mut section = format!(".SH {heading}\n");
    for (name, meaning) in items {
        section.push_str(&format!(
            ".TP\n.{font} \"{}\"\n{}\n",
            text(name),
            text(meaning)
        ));
    }
    section
}

fn code(lines: &str) -> String {
    format!(
        ".PP\n.RS 4\n.EX\n{}\n.EE\n.RE\n.PP\n",
        lines.lines().map(text).collect::<Vec<_>>().join("\n")
    )
}

/// Plain text, for a line of roff.
fn text(plain: &str) -> String {
    let text = plain
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq")
        .replace('~', "\\(ti");
    if text.starts_with(['.', '\'']) {
        format!("\\&{text}")
    } else {
        text
    }
}

/// A text in lines of at most so many letters.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
