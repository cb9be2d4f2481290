//! Owns the list of settings: every key, what holds without it, and what it means. What is read, hairpin.toml(5) and the file
//! that the package installs all come from here; a key that is not in this list does not exist.

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its name with its group, as in `web.plain_http`.
    pub name: &'static str,
    /// Whether it is a list.
    pub list: bool,
    /// Its default as TOML writes it; an example where the default depends on the machine or is "none".
    pub value: &'static str,
    /// What holds without the key, in words, where `value` is an example.
    pub unset: Option<&'static str>,
    /// What it means: plain sentences, for the man page and for comments.
    pub help: &'static str,
}

/// Every setting, those without a group first, as TOML wants them.
pub const KEYS: &[Key] = &[
    Key {
        name: "listen",
        list: false,
        value: "\"127.0.0.1:7247\"",
        unset: None,
        help: "Where the page is served: an address and a port. Beyond this machine it wants a certificate (web.tls_cert) or \
            web.plain_http.",
    },
    Key {
        name: "data_dir",
        list: false,
        value: "\"/var/lib/hairpin\"",
        unset: Some("$STATE_DIRECTORY, else $XDG_DATA_HOME/hairpin, else ~/.local/share/hairpin"),
        help: "The folder of the store, its keys and the access key. Commands typed at a terminal look there too.",
    },
    Key {
        name: "control_socket",
        list: false,
        value: "\"/run/hairpin/control.sock\"",
        unset: Some("control.sock in $RUNTIME_DIRECTORY, else in data_dir"),
        help: "Where the appliance and the commands at a terminal meet.",
    },
    Key {
        name: "country",
        list: false,
        value: "\"RU\"",
        unset: None,
        help: "How phone numbers without a country code are read: a country's two letters (ISO 3166).",
    },
    Key {
        name: "language",
        list: false,
        value: "\"auto\"",
        unset: None,
        help: "The page's language: auto (as the browser asks), ru or en.",
    },
    Key {
        name: "log.format",
        list: false,
        value: "\"text\"",
        unset: None,
        help: "How the log is written: text or json. Under systemd, text carries the journal's levels.",
    },
    Key {
        name: "sessions.max",
        list: false,
        value: "128",
        unset: None,
        help: "How many numbers may be linked, each in a session of its own; from 1 to 10000.",
    },
    Key {
        name: "web.allowed_hosts",
        list: true,
        value: "[]",
        unset: None,
        help: "Further names by which the page may be opened, as in [\"salon.example\"]. The machine's own names and addresses \
            always may.",
    },
    Key {
        name: "web.plain_http",
        list: false,
        value: "false",
        unset: None,
        help: "Whether the page may be served beyond this machine without HTTPS. The access key then crosses the network in clear.",
    },
    Key {
        name: "web.tls_cert",
        list: false,
        value: "\"/var/lib/hairpin/tls-cert.pem\"",
        unset: Some("none"),
        help: "The page's certificate, PEM, with those above it; together with web.tls_key it makes the page HTTPS. \
            \"hairpin tls-self-signed\" writes a pair. A changed file is taken without a restart.",
    },
    Key {
        name: "web.tls_key",
        list: false,
        value: "\"/var/lib/hairpin/tls-key.pem\"",
        unset: Some("none"),
        help: "The certificate's private key, PEM. The appliance's user must be able to read it.",
    },
    Key {
        name: "web.trusted_proxies",
        list: true,
        value: "[]",
        unset: None,
        help: "Addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, as in [\"127.0.0.1\"].",
    },
    Key {
        name: "pairing.code_ttl",
        list: false,
        value: "180",
        unset: None,
        help: "Seconds that a pairing code lives, from 1 to 3600; never longer than WhatsApp says.",
    },
    Key {
        name: "pairing.code_grace",
        list: false,
        value: "10",
        unset: None,
        help: "Seconds taken off what people are shown, so that nobody types a dying code; less than pairing.code_ttl.",
    },
    Key {
        name: "pairing.requests_per_number",
        list: false,
        value: "5",
        unset: None,
        help: "How many codes may be asked of WhatsApp for one number within an hour, kept across restarts; 0 is no limit. \
            WhatsApp blocks numbers that ask too often.",
    },
    Key {
        name: "whatsapp.url",
        list: false,
        value: "\"wss://web.whatsapp.com/ws/chat\"",
        unset: Some("WhatsApp's own address"),
        help: "Where the companion protocol is spoken: wss://, or ws:// with an address of this machine. For tests.",
    },
    Key {
        name: "whatsapp.connect_timeout",
        list: false,
        value: "20",
        unset: None,
        help: "Seconds, from 1 to 600, until a request without a connection is told that WhatsApp cannot be reached.",
    },
];

impl Key {
    /// The key of that name.
    pub(super) fn of(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }
}
