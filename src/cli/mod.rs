//! Owns the command line: what can be typed, and where each command is done (contract section 1).
//! The help is written here once; the man page is made from it.

mod access_key;
mod audit;
mod backup;
mod check;
mod link;
mod phone;
mod reach;
mod screen;
mod status;
mod term;
mod tls_self_signed;
mod unlink;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::app;
use crate::config::{Settings, Sources};
use crate::phone::Country;
use crate::process;
use crate::session;
use crate::upkeep;

pub use crate::exit::ExitError;

/// Links a salon's WhatsApp by pairing code and keeps it linked.
///
/// `hairpin serve` runs the appliance. The other commands speak to it over its control socket; they read the same
/// settings, so give them the same --config, --data-dir and environment.
#[derive(Debug, Parser)]
#[command(
    name = "hairpin",
    version,
    about,
    disable_help_subcommand = true,
    after_help = "\
Exit codes: 0 done, 1 failed, 2 wrong use, bad input or bad settings, 3 the store is in use by another process,
4 the store is damaged, 5 the appliance is not running."
)]
struct Cli {
    /// The settings file [default: /etc/hairpin/hairpin.toml, if it is there].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the store and its keys lie.
    #[arg(long, global = true, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    data_dir: Option<String>,
    /// How logs are written.
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
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
    /// Shows every session: its state, its number (masked), and since when.
    ///
    /// Without a running appliance it shows what the store holds, changes nothing, and says so.
    Status {
        /// Answers in JSON: a list of statuses, each with `running`.
        #[arg(long)]
        json: bool,
    },
    /// Asks for a pairing code, shows it with the time it has left, and ends when the phone is linked.
    ///
    /// On the phone, WhatsApp asks for the code under Linked devices, Link a device, Link with phone number instead.
    /// Ctrl-C ends the code, for everybody who sees it, unless the phone has taken it already.
    Link {
        /// The number to link; it is asked for when it is missing or `-`.
        ///
        /// A number given here can be seen in the process list by everybody on this machine: better leave it out,
        /// and type it when asked, or write it to standard input.
        phone: Option<String>,
        /// Which session is linked.
        #[arg(long, value_name = "ID", default_value = session::DEFAULT)]
        session: String,
        /// How a number without a country code is read (ISO 3166).
        #[arg(long)]
        country: Option<String>,
        /// Replaces the link that the session has, without a question.
        #[arg(long)]
        replace: bool,
    },
    /// Tells WhatsApp to forget the link, then wipes everything of it.
    ///
    /// Wipes even when WhatsApp cannot be told, and says then that the phone still lists the device.
    Unlink {
        /// Which session is unlinked.
        #[arg(long, value_name = "ID", default_value = session::DEFAULT)]
        session: String,
    },
    /// Shows the pairing journal, newest first: who asked for what, and what became of it.
    ///
    /// Works without a running appliance, and changes nothing then.
    Audit {
        /// Answers in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Prints, or replaces, the key that opens the page.
    AccessKey {
        /// Makes a new key: whoever is logged in has to log in again, and open pages close at once.
        #[arg(long)]
        rotate: bool,
    },
    /// Verifies the store, and says what it holds, without secrets. Changes nothing.
    Check,
    /// Writes one consistent file of everything a new machine needs, readable only with its passphrase.
    ///
    /// The passphrase is asked for, or comes from `HAIRPIN_BACKUP_PASSPHRASE`; without one the credential hairpin-key
    /// that systemd gives seals the backup. It is never an argument: those can be seen in the process list.
    Backup {
        /// Asks for a passphrase also where there is a credential, which would open the backup on this machine alone.
        #[arg(long)]
        passphrase: bool,
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
    /// Writes a certificate and its key for the page, and prints the fingerprint that browsers show.
    ///
    /// It is for this machine's names and addresses. Browsers warn of a certificate that nobody vouches for, once:
    /// compare the fingerprint, then trust it. The two files lie beside the store; `web.tls_cert` and `web.tls_key`
    /// name them. A running appliance takes a new pair by itself.
    TlsSelfSigned {
        /// Further names and addresses that the page is opened by.
        names: Vec<String>,
        /// How long it is good for. Some browsers refuse more than 825 days.
        #[arg(long, value_name = "DAYS", default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// Replaces the pair that is there: whoever trusted it has to look again.
        #[arg(long)]
        force: bool,
    },
}

/// The whole command line, for the man page and the shells' completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs what the process was started with; the exit code.
#[must_use]
pub fn main() -> u8 {
    process::keep_memory_private();
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
                term::complain(&error.message);
            }
            error.code
        }
    }
}

fn run(cli: Cli) -> Result<(), ExitError> {
    let settings = Settings::read(&sources(&cli))?;
    match cli.command {
        Command::Serve { open_key, .. } => app::serve(settings, open_key),
        Command::Status { json } => reach::block_on(status::status(&settings, json)),
        Command::Link {
            phone,
            session,
            country,
            replace,
        } => {
            let typed = link::Typed {
                phone: phone.as_deref(),
                session: &session,
                country: country.as_deref(),
                replace,
            };
            reach::block_on(link::link(&settings, typed))
        }
        Command::Unlink { session } => reach::block_on(unlink::unlink(&settings, &session)),
        Command::Audit { json } => reach::block_on(audit::audit(&settings, json)),
        Command::AccessKey { rotate } => reach::block_on(access_key::access_key(&settings, rotate)),
        Command::Check => reach::block_on(check::check(&settings)),
        Command::Backup { passphrase, file } => {
            reach::block_on(backup::backup(&settings, &file, passphrase))
        }
        Command::Restore { file } => upkeep::restore(&settings, &file),
        Command::StartOver { yes } => upkeep::start_over(&settings, yes),
        Command::TlsSelfSigned { names, days, force } => {
            tls_self_signed::write(&settings, names, days, force)
        }
        Command::Phone {
            number,
            country,
            json,
        } => phone::phone(
            number.as_deref(),
            country.as_deref(),
            settings.country,
            json,
        ),
    }
}

/// Where the settings come from: the same places for every command.
fn sources(cli: &Cli) -> Sources {
    let mut flags = BTreeMap::new();
    let mut set = |key: &'static str, value: Option<String>| {
        if let Some(value) = value {
            flags.insert(key, value);
        }
    };
    set("data_dir", cli.data_dir.clone());
    set(
        "log.format",
        cli.log_format.map(|format| match format {
            LogFormat::Text => "text".to_owned(),
            LogFormat::Json => "json".to_owned(),
        }),
    );
    match &cli.command {
        Command::Serve {
            listen,
            whatsapp_url,
            ..
        } => {
            set("listen", listen.clone());
            set("whatsapp.url", whatsapp_url.clone());
        }
        // A bad country is the number's affair here, and is told as such.
        Command::Phone { country, .. } | Command::Link { country, .. } => {
            set(
                "country",
                country.clone().filter(|code| Country::parse(code).is_ok()),
            );
        }
        _ => {}
    }
    Sources {
        file: cli.config.clone(),
        flags,
        env: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_argument_explains_itself() {
        let command = command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
            for argument in sub.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {}",
                    sub.get_name(),
                    argument.get_id()
                );
            }
        }
    }

    #[test]
    fn a_number_as_an_argument_is_warned_of_in_the_help() {
        for name in ["link", "phone"] {
            let mut sub = command().find_subcommand(name).expect("a command").clone();
            let help = sub.render_long_help().to_string();
            assert!(help.contains("process list"), "{help}");
        }
    }
}
