//! Owns the settings: flags, then environment, then the TOML file, then defaults (contract section 1).
//! A bad value names where it came from and how to mend it; nothing is guessed.

mod keys;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::phone::Country;
use crate::web;

pub use keys::{KEYS, Key};

/// Where the file is looked for when no flag names it.
pub const DEFAULT_FILE: &str = "/etc/hairpin/hairpin.toml";

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the page is served.
    pub listen: SocketAddr,
    /// Holds the store, its keys and the access key.
    pub data_dir: PathBuf,
    /// The control socket.
    pub control_socket: PathBuf,
    /// How numbers without a country code are read.
    pub country: Country,
    /// The page's language; none follows the browser.
    pub language: Option<String>,
    /// Whether logs are JSON.
    pub log_json: bool,
    /// How many sessions there may be.
    pub sessions_max: usize,
    /// Further `Host` names the page answers to.
    pub allowed_hosts: Vec<String>,
    /// Whether plain HTTP may leave the machine.
    pub plain_http: bool,
    /// The page's certificate and key, PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Addresses whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// How long a code lives.
    pub code_ttl: Duration,
    /// How much of that is not shown.
    pub code_grace: Duration,
    /// Requests per number and hour; 0 is no limit.
    pub requests_per_number: u32,
    /// Where the companion protocol is spoken; none is WhatsApp's own address.
    pub whatsapp_url: Option<String>,
    /// How long a request may be without a connection.
    pub connect_timeout: Duration,
    /// Why these settings are no good for serving, though the other commands can do with them.
    unservable: Option<ConfigError>,
}

/// A setting that cannot be: one line, with the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// What the settings are read from.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// Flags, by key.
    pub flags: BTreeMap<&'static str, String>,
    /// The environment.
    pub env: BTreeMap<String, String>,
}

/// A value as it was found, and where.
#[derive(Debug, Clone)]
struct Found {
    values: Vec<String>,
    place: String,
}

impl Found {
    fn text(&self) -> &str {
        self.values.first().map_or("", String::as_str)
    }

    fn bad(&self, key: &str, mend: &str) -> ConfigError {
        ConfigError(format!(
            "{}: {key} cannot be {:?}; {mend}",
            self.place,
            self.values.join(", ")
        ))
    }
}

impl Settings {
    /// Reads them all.
    ///
    /// # Errors
    /// The first thing that is wrong, in one line.
    pub fn read(sources: &Sources) -> Result<Self, ConfigError> {
        let found = Values::gather(sources)?;
        let env = &sources.env;
        let var = |name: &str| env.get(name).filter(|value| !value.is_empty());
        let data_dir = match found.get("data_dir") {
            Some(found) => PathBuf::from(found.text()),
            None => match (var("STATE_DIRECTORY"), var("XDG_DATA_HOME"), var("HOME")) {
                // systemd gives a list where there are several; ours is one.
                (Some(state), _, _) => PathBuf::from(state.split(':').next().unwrap_or(state)),
                (None, Some(data), _) => Path::new(data).join("hairpin"),
                (None, None, Some(home)) => Path::new(home).join(".local/share/hairpin"),
                (None, None, None) => {
                    return Err(ConfigError(
                        "there is no place for the data; set data_dir or --data-dir".to_owned(),
                    ));
                }
            },
        };
        let control_socket = match found.get("control_socket") {
            Some(found) => PathBuf::from(found.text()),
            None => var("RUNTIME_DIRECTORY")
                .map_or_else(
                    || data_dir.clone(),
                    |run| PathBuf::from(run.split(':').next().unwrap_or(run)),
                )
                .join("control.sock"),
        };
        let settings = Self {
            listen: found.parsed(
                "listen",
                SocketAddr::from(([127, 0, 0, 1], 7247)),
                "write an address and a port, as in 127.0.0.1:7247",
            )?,
            data_dir,
            control_socket,
            country: found.with(
                "country",
                "RU",
                |text| Country::parse(text).ok(),
                "write a country's two letters (ISO 3166), as in RU",
            )?,
            language: found.with(
                "language",
                "auto",
                |text| match text {
                    "auto" => Some(None),
                    "ru" | "en" => Some(Some(text.to_owned())),
                    _ => None,
                },
                "write auto, ru or en",
            )?,
            log_json: found.with(
                "log.format",
                "text",
                |text| match text {
                    "text" => Some(false),
                    "json" => Some(true),
                    _ => None,
                },
                "write text or json",
            )?,
            sessions_max: found.number("sessions.max", 128, 1, 10_000)?,
            allowed_hosts: found.list(
                "web.allowed_hosts",
                |host| web::is_authority(host).then(|| host.to_ascii_lowercase()),
                "write whole host names as browsers send them, as in salon.example or xn--80awgdm.example",
            )?,
            plain_http: found.with(
                "web.plain_http",
                "false",
                |text| text.parse().ok(),
                "write true or false",
            )?,
            tls: found.tls()?,
            trusted_proxies: found.list(
                "web.trusted_proxies",
                |address| address.parse().ok(),
                "write addresses, as in 192.0.2.1",
            )?,
            code_ttl: Duration::from_secs(found.number("pairing.code_ttl", 180, 1, 3600)?),
            code_grace: Duration::from_secs(found.number("pairing.code_grace", 10, 0, 3599)?),
            requests_per_number: found.number("pairing.requests_per_number", 5, 0, 10_000)?,
            whatsapp_url: found.url()?,
            connect_timeout: Duration::from_secs(found.number(
                "whatsapp.connect_timeout",
                20,
                1,
                600,
            )?),
            unservable: None,
        };
        settings.checked(&found)
    }

    /// What one value alone cannot tell.
    fn checked(mut self, found: &Values) -> Result<Self, ConfigError> {
        if self.code_grace >= self.code_ttl {
            return Err(ConfigError(format!(
                "{}: pairing.code_grace ({} s) must be below pairing.code_ttl ({} s); no code could be shown",
                found.place("pairing.code_grace"),
                self.code_grace.as_secs(),
                self.code_ttl.as_secs()
            )));
        }
        if !self.listen.ip().is_loopback() && self.tls.is_none() && !self.plain_http {
            self.unservable = Some(ConfigError(format!(
                "{}: listening on {} would send the access key in the clear; set web.tls_cert and web.tls_key, or web.plain_http = true if the network is trusted",
                found.place("listen"),
                self.listen
            )));
        }
        Ok(self)
    }

    /// Whether the appliance may serve with these settings.
    ///
    /// # Errors
    /// What keeps it from serving, in one line.
    pub fn may_serve(&self) -> Result<(), ConfigError> {
        self.unservable.clone().map_or(Ok(()), Err)
    }
}

struct Values(BTreeMap<&'static str, Found>);

impl Values {
    /// The strongest source of each key wins.
    fn gather(sources: &Sources) -> Result<Self, ConfigError> {
        let mut all = from_file(sources)?;
        for &Key {
            name: key, list, ..
        } in KEYS
        {
            let name = variable(key);
            if let Some(value) = sources.env.get(&name) {
                let values = if list {
                    value
                        .split(',')
                        .map(|part| part.trim().to_owned())
                        .filter(|part| !part.is_empty())
                        .collect()
                } else {
                    vec![value.clone()]
                };
                all.insert(
                    key,
                    Found {
                        values,
                        place: name,
                    },
                );
            }
            if let Some(value) = sources.flags.get(key) {
                all.insert(
                    key,
                    Found {
                        values: vec![value.clone()],
                        place: format!("--{}", flag(key)),
                    },
                );
            }
        }
        Ok(Self(all))
    }

    fn get(&self, key: &str) -> Option<&Found> {
        self.0.get(key)
    }

    fn place(&self, key: &str) -> &str {
        self.get(key).map_or("settings", |found| &found.place)
    }

    fn with<T>(
        &self,
        key: &str,
        default: &str,
        read: impl Fn(&str) -> Option<T>,
        mend: &str,
    ) -> Result<T, ConfigError> {
        let default = Found {
            values: vec![default.to_owned()],
            place: "default".to_owned(),
        };
        let found = self.get(key).unwrap_or(&default);
        read(found.text()).ok_or_else(|| found.bad(key, mend))
    }

    fn parsed<T: std::str::FromStr>(
        &self,
        key: &str,
        default: T,
        mend: &str,
    ) -> Result<T, ConfigError> {
        match self.get(key) {
            None => Ok(default),
            Some(found) => found.text().parse().map_err(|_| found.bad(key, mend)),
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "bounds are plain numbers")]
    fn number<T>(&self, key: &str, default: T, least: T, most: T) -> Result<T, ConfigError>
    where
        T: std::str::FromStr + PartialOrd + std::fmt::Display,
    {
        let mend = format!("write a whole number from {least} to {most}");
        let number = self.parsed(key, default, &mend)?;
        match self.get(key) {
            Some(found) if number < least || number > most => Err(found.bad(key, &mend)),
            _ => Ok(number),
        }
    }

    fn list<T>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Option<T>,
        mend: &str,
    ) -> Result<Vec<T>, ConfigError> {
        let Some(found) = self.get(key) else {
            return Ok(Vec::new());
        };
        found
            .values
            .iter()
            .map(|value| read(value).ok_or_else(|| found.bad(key, mend)))
            .collect()
    }

    fn tls(&self) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
        match (self.get("web.tls_cert"), self.get("web.tls_key")) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Ok(Some((cert.text().into(), key.text().into()))),
            (Some(one), None) => Err(one.bad("web.tls_cert", "web.tls_key must be set too")),
            (None, Some(other)) => Err(other.bad("web.tls_key", "web.tls_cert must be set too")),
        }
    }

    /// `wss://` to anywhere, `ws://` to this machine only.
    fn url(&self) -> Result<Option<String>, ConfigError> {
        let Some(found) = self.get("whatsapp.url") else {
            return Ok(None);
        };
        let mend = "write wss://…, or ws:// with an address of this machine";
        let bad = || found.bad("whatsapp.url", mend);
        let url: http::Uri = found.text().parse().map_err(|_| bad())?;
        let host = url.host().filter(|host| is_host(host)).ok_or_else(bad)?;
        // Nothing before the host, and behind it a port that there is.
        match url
            .authority()
            .and_then(|all| all.as_str().strip_prefix(host))
        {
            Some("") => {}
            Some(_) if url.port_u16().is_some() => {}
            _ => return Err(bad()),
        }
        let loopback = host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse()
                .is_ok_and(|address: IpAddr| address.is_loopback());
        match url.scheme_str() {
            Some("wss") => Ok(Some(found.text().to_owned())),
            Some("ws") if loopback => Ok(Some(found.text().to_owned())),
            _ => Err(bad()),
        }
    }
}

/// A name or an address. No name ends in a number, so what does is an address or nothing.
fn is_host(host: &str) -> bool {
    if let Some(v6) = host.strip_prefix('[') {
        return v6
            .strip_suffix(']')
            .is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok());
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let last = host.trim_end_matches('.').rsplit('.').next();
    let number = last.is_some_and(|last| last.starts_with(|sign: char| sign.is_ascii_digit()));
    host.bytes().all(plain) && (!number || host.parse::<Ipv4Addr>().is_ok())
}

/// `web.plain_http` → `HAIRPIN_WEB_PLAIN_HTTP`.
#[must_use]
pub fn variable(key: &str) -> String {
    format!("HAIRPIN_{}", key.replace('.', "_").to_uppercase())
}

/// `whatsapp.url` → `whatsapp-url`.
fn flag(key: &str) -> String {
    key.replace(['.', '_'], "-")
}

fn from_file(sources: &Sources) -> Result<BTreeMap<&'static str, Found>, ConfigError> {
    let (path, named) = match &sources.file {
        Some(path) => (path.clone(), true),
        None => (PathBuf::from(DEFAULT_FILE), false),
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => {
            return Ok(BTreeMap::new());
        }
        Err(error) => {
            return Err(ConfigError(format!(
                "{}: the settings file cannot be read ({error}); check its name and rights",
                path.display()
            )));
        }
    };
    read_file(&path, &text)
}

fn read_file(path: &Path, text: &str) -> Result<BTreeMap<&'static str, Found>, ConfigError> {
    let at = |offset: usize| {
        let line = text
            .bytes()
            .take(offset)
            .filter(|&byte| byte == b'\n')
            .count()
            + 1;
        format!("{}:{line}", path.display())
    };
    let table = DeTable::parse(text).map_err(|error| {
        let place = error
            .span()
            .map_or_else(|| path.display().to_string(), |span| at(span.start));
        ConfigError(format!(
            "{place}: {}; this is no TOML",
            error.message().replace('\n', " ")
        ))
    })?;
    let mut found = BTreeMap::new();
    gather(table.get_ref(), "", &at, &mut found)?;
    Ok(found)
}

fn gather(
    table: &DeTable<'_>,
    prefix: &str,
    at: &dyn Fn(usize) -> String,
    found: &mut BTreeMap<&'static str, Found>,
) -> Result<(), ConfigError> {
    for (name, value) in table {
        let key = format!("{prefix}{}", name.get_ref());
        let place = at(name.span().start);
        let group = format!("{key}.");
        if let DeValue::Table(inner) = value.get_ref()
            && KEYS.iter().any(|known| known.name.starts_with(&group))
        {
            gather(inner, &group, at, found)?;
            continue;
        }
        let Some(known) = Key::of(&key) else {
            return Err(ConfigError(format!(
                "{place}: there is no setting {key:?}; see hairpin.toml(5) for those there are"
            )));
        };
        let values = values(value, known.list).ok_or_else(|| {
            ConfigError(format!(
                "{place}: {key} has a value of the wrong kind; write {}",
                if known.list {
                    "a list of texts, as in [\"a\", \"b\"]"
                } else {
                    "one value"
                }
            ))
        })?;
        found.insert(known.name, Found { values, place });
    }
    Ok(())
}

fn values(value: &Spanned<DeValue<'_>>, is_list: bool) -> Option<Vec<String>> {
    match (value.get_ref(), is_list) {
        (DeValue::Array(list), true) => list
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            })
            .collect(),
        (DeValue::String(text), false) => Some(vec![text.to_string()]),
        (DeValue::Integer(number), false) => Some(vec![number.as_str().to_owned()]),
        (DeValue::Boolean(yes), false) => Some(vec![yes.to_string()]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> (tempfile::TempDir, Sources) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("hairpin.toml");
        std::fs::write(&file, text).expect("written");
        let env = BTreeMap::from([("HOME".to_owned(), "/home/salon".to_owned())]);
        (
            folder,
            Sources {
                file: Some(file),
                env,
                ..Sources::default()
            },
        )
    }

    fn error(text: &str) -> String {
        let (_folder, sources) = sources(text);
        Settings::read(&sources)
            .and_then(|settings| settings.may_serve())
            .expect_err(text)
            .to_string()
    }

    #[test]
    fn only_serving_minds_where_the_page_would_be_served() {
        let (_folder, sources) = sources("listen = \"0.0.0.0:7247\"\n");
        let settings = Settings::read(&sources).expect("good enough to read a number");
        assert!(settings.may_serve().is_err());
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let (_folder, sources) = sources("");
        let settings = Settings::read(&sources).expect("defaults");
        assert_eq!(settings.listen.to_string(), "127.0.0.1:7247");
        assert_eq!(
            settings.data_dir,
            Path::new("/home/salon/.local/share/hairpin")
        );
        assert_eq!(
            settings.control_socket,
            settings.data_dir.join("control.sock")
        );
        assert_eq!(settings.country.code(), "RU");
        assert_eq!(settings.language, None);
        assert_eq!(settings.sessions_max, 128);
        assert_eq!(settings.code_ttl.as_secs(), 180);
        assert_eq!(settings.code_grace.as_secs(), 10);
        assert_eq!(settings.requests_per_number, 5);
        assert_eq!(settings.connect_timeout.as_secs(), 20);
        assert_eq!(settings.whatsapp_url, None);
    }

    #[test]
    fn a_flag_beats_the_environment_which_beats_the_file() {
        let (_folder, mut sources) =
            sources("listen = \"127.0.0.1:1\"\n[pairing]\ncode_ttl = 100\n");
        assert_eq!(Settings::read(&sources).expect("file").listen.port(), 1);
        sources
            .env
            .insert("HAIRPIN_LISTEN".to_owned(), "127.0.0.1:2".to_owned());
        let settings = Settings::read(&sources).expect("environment");
        assert_eq!(
            (settings.listen.port(), settings.code_ttl.as_secs()),
            (2, 100)
        );
        sources.flags.insert("listen", "127.0.0.1:3".to_owned());
        assert_eq!(Settings::read(&sources).expect("flag").listen.port(), 3);
    }

    /// The number of the link is what a person types, each time: there is no other place it could come from.
    #[test]
    fn no_setting_holds_a_number_of_the_salons() {
        for Key { name: key, .. } in KEYS {
            for word in ["phone", "line", "default"] {
                assert!(!key.contains(word), "{key}");
            }
            assert!(
                !key.contains("number") || *key == "pairing.requests_per_number",
                "{key}"
            );
        }
    }

    #[test]
    fn every_key_has_its_variable_and_its_place_in_the_file() {
        for Key {
            name: key, list, ..
        } in KEYS
        {
            let name = variable(key);
            assert!(
                name.chars()
                    .all(|letter| letter.is_ascii_uppercase() || letter == '_'),
                "{name}"
            );
            let value = if *list { "[]" } else { "\"\"" };
            let found = read_file(Path::new("f"), &format!("{key} = {value}")).expect(key);
            assert!(found.contains_key(key), "{key}");
        }
        assert_eq!(variable("web.plain_http"), "HAIRPIN_WEB_PLAIN_HTTP");
    }

    #[test]
    fn every_default_that_the_list_names_is_the_one_that_is_read() {
        let (_folder, empty) = sources("");
        let defaults = Settings::read(&empty).expect("defaults");
        for key in KEYS {
            let (_folder, mut one) = sources(&format!("{} = {}", key.name, key.value));
            let read = Settings::read(&one);
            if key.unset.is_none() {
                assert_eq!(read.as_ref(), Ok(&defaults), "{}", key.name);
                // A default that was not read at all would prove nothing.
                one.env
                    .insert(variable(key.name), "no such value/".to_owned());
                assert!(Settings::read(&one).is_err(), "{}", key.name);
            }
        }
    }

    #[test]
    fn systemd_names_the_folders() {
        let (_folder, mut sources) = sources("");
        sources
            .env
            .insert("STATE_DIRECTORY".to_owned(), "/var/lib/hairpin".to_owned());
        sources
            .env
            .insert("RUNTIME_DIRECTORY".to_owned(), "/run/hairpin".to_owned());
        let settings = Settings::read(&sources).expect("settings");
        assert_eq!(settings.data_dir, Path::new("/var/lib/hairpin"));
        assert_eq!(
            settings.control_socket,
            Path::new("/run/hairpin/control.sock")
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_its_mend() {
        for (text, wants) in [
            (
                "\n\nlisten_on = 1\n",
                "hairpin.toml:3: there is no setting \"listen_on\"",
            ),
            (
                "[web]\nport = 1\n",
                "hairpin.toml:2: there is no setting \"web.port\"",
            ),
            (
                "listen = \"nonsense\"\n",
                "hairpin.toml:1: listen cannot be \"nonsense\"; write an address",
            ),
            ("country = \"XX\"\n", "write a country's two letters"),
            (
                "[pairing]\ncode_ttl = 60\ncode_grace = 60\n",
                "hairpin.toml:3: pairing.code_grace (60 s) must be below",
            ),
            (
                "[pairing]\ncode_ttl = 0\n",
                "write a whole number from 1 to 3600",
            ),
            ("listen = \"0.0.0.0:7247\"\n", "web.plain_http = true"),
            ("[web]\ntls_cert = \"a\"\n", "web.tls_key must be set too"),
            ("[whatsapp]\nurl = \"ws://203.0.113.1/\"\n", "write wss://"),
            (
                "[whatsapp]\nurl = \"https://example.org\"\n",
                "write wss://",
            ),
            (
                "whatsapp.url = \"wss://example.org:99999/\"\n",
                "write wss://",
            ),
            ("whatsapp.url = \"wss://ex:am$ple.org/\"\n", "write wss://"),
            ("whatsapp.url = \"wss://a@example.org/\"\n", "write wss://"),
            ("whatsapp.url = \"ws://127.0.0.1.5/\"\n", "write wss://"),
            ("listen = [\"a\"]\n", "one value"),
            ("listen = \n", "this is no TOML"),
            ("language = \"xx\"\n", "write auto, ru or en"),
            ("[sessions]\nmax = 0\n", "write a whole number from 1"),
            (
                "web.allowed_hosts = [\"a.example\", \"*.salon.example\"]\n",
                "hairpin.toml:1: web.allowed_hosts cannot be",
            ),
            (
                "web.allowed_hosts = [\"салон.рф\"]\n",
                "as browsers send them",
            ),
        ] {
            let said = error(text);
            assert!(said.contains(wants), "{text:?}: {said}");
            assert!(!said.contains('\n'), "{said}");
        }
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let sources = Sources {
            file: Some(PathBuf::from("/nonexistent/hairpin.toml")),
            ..Sources::default()
        };
        assert!(Settings::read(&sources).is_err());
    }
}
