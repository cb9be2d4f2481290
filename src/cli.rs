//! Owns the command line: what can be typed, and the exit codes of contract section 1.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use serde_json::json;

use crate::app;
use crate::config::{Settings, Sources};
use crate::phone::{Country, Phone, PhoneError};
use crate::upkeep;
use crate::words::{self, Lang};

pub use crate::exit::ExitError;

/// Links a salon's WhatsApp by pairing code and keeps it linked.
#[derive(Debug, Parser)]
#[command(name = "hairpin", version, about, disable_help_subcommand = true)]
struct Cli {
    /// The settings file [default: /etc/hairpin/hairpin.toml, if it is there].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the store and its keys lie.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
    /// How logs are written.
    #[arg(long, global = true, value_enum)]
    log_format: Option<LogFormat>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the appliance: store, links and web page.
    Serve {
        /// Where the page is served.
        #[arg(long, value_name = "ADDR:PORT")]
        listen: Option<String>,
        /// Where the companion protocol is spoken.
        #[arg(long, value_name = "URL")]
        whatsapp_url: Option<String>,
        /// Also prints the address that opens the page by itself. It holds the access key: for a terminal, not for logs.
        #[arg(long)]
        open_key: bool,
    },
    /// Prints, or replaces, the key that opens the page.
    AccessKey {
        /// Makes a new key; whoever is logged in has to log in again.
        #[arg(long)]
        rotate: bool,
    },
    /// Verifies the store, and says what it holds, without secrets. Changes nothing.
    Check,
    /// Writes one consistent file of everything a new machine needs, readable only with its passphrase.
    ///
    /// The passphrase is asked for, or comes from HAIRPIN_BACKUP_PASSPHRASE; without one the credential hairpin-key
    /// that systemd gives seals the backup. It is never an argument: those can be seen in the process list.
    Backup {
        /// The file; one that is there stays until the new one is complete. `-` is standard output.
        file: PathBuf,
    },
    /// Puts a backup in the place of the store, which is set aside. The appliance has to be stopped.
    ///
    /// Brings back identity, device, settings and journal; conversations start anew.
    Restore {
        /// The file. `-` is standard input.
        file: PathBuf,
    },
    /// Sets the store aside under a dated name, so that the next start begins empty. The appliance has to be stopped.
    StartOver {
        /// Asks nothing.
        #[arg(long)]
        yes: bool,
    },
    /// Shows how a number is read, or why it is refused.
    ///
    /// A number given as an argument can be seen in the process list by everybody on this machine;
    /// without one it is asked for, and `-` reads one number a line from standard input.
    Phone {
        /// The number; `-` reads lines from standard input.
        number: Option<String>,
        /// How a number without a country code is read (ISO 3166).
        #[arg(long)]
        country: Option<String>,
        /// Answers in JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs what the process was started with; the exit code.
#[must_use]
pub fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors: they go to standard output with code 0.
            let code = if error.use_stderr() { 2 } else { 0 };
            // A closed pipe is the reader's own wish.
            let _ = error.print();
            return code;
        }
    };
    match run(cli) {
        Ok(()) => 0,
        Err(error) => {
            if !error.message.is_empty() {
                eprintln!("hairpin: {}", error.message);
            }
            error.code
        }
    }
}

fn run(cli: Cli) -> Result<(), ExitError> {
    let mut flags = BTreeMap::new();
    let mut set = |key: &'static str, value: Option<String>| {
        if let Some(value) = value {
            flags.insert(key, value);
        }
    };
    set("data_dir", cli.data_dir);
    set(
        "log.format",
        cli.log_format.map(|format| match format {
            LogFormat::Text => "text".to_owned(),
            LogFormat::Json => "json".to_owned(),
        }),
    );
    if let Command::Serve {
        listen,
        whatsapp_url,
        ..
    } = &cli.command
    {
        set("listen", listen.clone());
        set("whatsapp.url", whatsapp_url.clone());
    }
    if let Command::Phone { country, .. } = &cli.command {
        // A bad country is the number's affair here, and is told as such.
        if country.is_none()
            || country
                .as_deref()
                .is_some_and(|code| Country::parse(code).is_ok())
        {
            set("country", country.clone());
        }
    }
    let sources = Sources {
        file: cli.config,
        flags,
        env: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
    };
    let settings = Settings::read(&sources)?;
    match cli.command {
        Command::Serve { open_key, .. } => app::serve(settings, open_key),
        Command::AccessKey { rotate } => app::access_key(&settings, rotate),
        Command::Check => upkeep::check(&settings),
        Command::Backup { file } => upkeep::backup(&settings, &file),
        Command::Restore { file } => upkeep::restore(&settings, &file),
        Command::StartOver { yes } => upkeep::start_over(&settings, yes),
        Command::Phone {
            number,
            country,
            json,
        } => phone(
            number.as_deref(),
            country.as_deref(),
            settings.country,
            json,
        ),
    }
}

fn phone(
    number: Option<&str>,
    country: Option<&str>,
    default: Country,
    json: bool,
) -> Result<(), ExitError> {
    let country = country.map_or(Ok(default), Country::parse);
    let read = |text: &str| country.and_then(|country| Phone::parse(text, country));
    let mut refused = None;
    let mut answer = |text: &str, many: bool| -> Result<(), ExitError> {
        let result = read(text);
        let mut out = std::io::stdout().lock();
        let line = match &result {
            Ok(phone) if json => reading(phone).to_string(),
            Ok(phone) => format!(
                "{} ({}, {})",
                phone.e164(),
                phone
                    .country()
                    .map_or_else(|| "?".to_owned(), Country::code),
                phone.kind().replace('_', " ")
            ),
            Err(error) if json => refusal(*error, Lang::En).to_string(),
            Err(error) if many => format!("refused: {}", sentence(*error, Lang::En)),
            Err(_) => String::new(),
        };
        if !line.is_empty() {
            writeln!(out, "{line}").map_err(|error| {
                ExitError::failed(format!("the answer cannot be written: {error}"))
            })?;
        }
        if let Err(error) = result {
            refused = Some(error);
        }
        Ok(())
    };
    if let Some("-") = number {
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|error| {
                ExitError::failed(format!("standard input cannot be read: {error}"))
            })?;
            answer(&line, true)?;
        }
        // Each refusal stands on its own line already.
        refused.map_or(Ok(()), |_| Err(ExitError::wrong_use("")))
    } else {
        let typed = match number {
            Some(number) => number.to_owned(),
            None => ask_for_number()?,
        };
        answer(&typed, false)?;
        match refused {
            None => Ok(()),
            Some(_) if json => Err(ExitError::wrong_use("")),
            Some(error) => Err(ExitError::wrong_use(sentence(error, Lang::En))),
        }
    }
}

/// How a number is read, as the terminal and the API say it.
#[must_use]
pub fn reading(phone: &Phone) -> serde_json::Value {
    json!({
        "e164": phone.e164(),
        "country": phone.country().map(Country::code),
        "kind": phone.kind(),
        "masked": phone.masked(),
    })
}

/// Why a number is refused, as the terminal says it.
#[must_use]
pub fn refusal(error: PhoneError, lang: Lang) -> serde_json::Value {
    json!({
        "code": error.code(),
        "reason": error.reason(),
        "message": sentence(error, lang),
    })
}

fn sentence(error: PhoneError, lang: Lang) -> String {
    words::message(error.code(), Some(error.reason()), lang).to_owned()
}

fn ask_for_number() -> Result<String, ExitError> {
    if std::io::stdin().is_terminal() {
        eprint!("Phone number: ");
    }
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| ExitError::failed(format!("standard input cannot be read: {error}")))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
