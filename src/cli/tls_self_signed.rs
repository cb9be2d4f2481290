//! Owns `hairpin tls-self-signed`.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;

use super::term;
use crate::certificate::{SelfSigned, own_address};
use crate::config::Settings;
use crate::exit::ExitError;
use crate::upkeep;
use crate::web::own_names;

const CERT: &str = "tls-cert.pem";
const KEY: &str = "tls-key.pem";

pub(super) fn write(
    settings: &Settings,
    more: Vec<String>,
    days: u32,
    force: bool,
) -> Result<(), ExitError> {
    let folder = &settings.data_dir;
    let (cert, key) = (folder.join(CERT), folder.join(KEY));
    if let Some(there) = [&cert, &key].into_iter().find(|path| path.exists())
        && !force
    {
        return Err(ExitError::failed(format!(
            "{} is there already; --force replaces the pair, and whoever trusted it has to look again",
            there.display()
        )));
    }
    let names = names(settings, more);
    let made = SelfSigned::make(&names, days).map_err(|error| {
        ExitError::wrong_use(format!(
            "no certificate can be made for {}: {error}; write host names and addresses, as in salon.example 192.0.2.1",
            names.join(" ")
        ))
    })?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| {
            ExitError::failed(format!("{} cannot be made: {error}", folder.display()))
        })?;
    // The key first: a pair that is cut short is refused as one that does not belong together, never half served.
    upkeep::write(&key, folder, made.key.as_bytes())?;
    upkeep::write(&cert, folder, made.cert.as_bytes())?;
    term::say(&format!(
        "Wrote {} and {}, good for {days} days and for: {}",
        cert.display(),
        key.display(),
        names.join(" ")
    ))?;
    term::say(&format!("SHA-256 fingerprint: {}", made.fingerprint))?;
    if settings.tls != Some((cert.clone(), key.clone())) {
        term::say(&format!(
            "To serve HTTPS with it, write this into the settings file and restart the appliance:\n[web]\ntls_cert = {:?}\ntls_key = {:?}",
            cert.display().to_string(),
            key.display().to_string()
        ))?;
    }
    Ok(())
}

/// What the page is opened by: the names it answers to, the machine's address, and what was asked for.
fn names(settings: &Settings, more: Vec<String>) -> Vec<String> {
    let listen = settings.listen.ip();
    let address = if listen.is_unspecified() {
        own_address()
    } else {
        Some(listen)
    };
    let fixed = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let hosts = settings.allowed_hosts.iter().map(|host| bare(host));
    let mut all = Vec::new();
    for name in fixed
        .into_iter()
        .chain(own_names())
        .chain(address.map(|address| address.to_string()))
        .chain(hosts)
        .chain(more)
    {
        if !name.is_empty() && !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// A host without its port.
fn bare(host: &str) -> String {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address.to_owned(),
        None => host.split(':').next().unwrap_or(host).to_owned(),
    }
}
