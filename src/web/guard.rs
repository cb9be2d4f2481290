//! Owns the exact check of Host and Origin, and whose `X-Forwarded-*` are believed.
//! Nothing gets past it unchecked: the page, `/healthz` and the WebSocket included.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Request, header};

use super::WebSettings;

/// What the guard found out about a request that it lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admitted {
    /// Who asks, behind a trusted proxy too.
    pub(super) client: IpAddr,
    /// Whether the browser speaks TLS, to us or to a trusted proxy.
    pub(super) https: bool,
    /// Whether an `Origin` was there (and right).
    pub(super) origin: bool,
}

/// The names we answer to.
#[derive(Debug)]
pub(super) struct Guard {
    names: Vec<Authority>,
    proxies: Vec<IpAddr>,
    tls: bool,
}

/// A host as it stands in an address; a name is in lower case, the port is none if it is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Authority {
    host: Host,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Name(String),
    Address(IpAddr),
}

/// What the page answers to on every machine: `localhost`, the machine's name, and that name under `.local`.
#[must_use]
pub fn own_names() -> [String; 3] {
    let machine = rustix::system::uname();
    let machine = machine.nodename().to_string_lossy().to_ascii_lowercase();
    // mDNS knows the machine by the first label of its name.
    let label = machine.split('.').next().unwrap_or_default();
    let local = format!("{label}.local");
    ["localhost".to_owned(), machine, local]
}

impl Guard {
    pub(super) fn new(settings: &WebSettings) -> Self {
        let mut names = own_names().to_vec();
        names.extend(settings.allowed_hosts.iter().cloned());
        Self {
            names: names
                .iter()
                .filter_map(|name| Authority::parse(name))
                .collect(),
            proxies: settings
                .trusted_proxies
                .iter()
                .map(IpAddr::to_canonical)
                .collect(),
            tls: settings.tls.is_some(),
        }
    }

    pub(super) fn is_proxy(&self, peer: IpAddr) -> bool {
        self.proxies.contains(&peer.to_canonical())
    }

    /// Lets a request pass whose Host and Origin are ours; `None` refuses it.
    pub(super) fn check<B>(
        &self,
        request: &Request<B>,
        peer: IpAddr,
        local: SocketAddr,
    ) -> Option<Admitted> {
        let headers = request.headers();
        let by_proxy = self.is_proxy(peer);
        let mut authority = Authority::parse(only(headers, header::HOST.as_str())??)?;
        if let Some(target) = request.uri().authority() {
            // An absolute target must not say something else than the header.
            if Authority::parse(target.as_str())? != authority {
                return None;
            }
        }
        let mut https = self.tls;
        let mut client = peer.to_canonical();
        if by_proxy {
            if let Some(host) = only(headers, "x-forwarded-host")? {
                // A proxy may pass on what a client wrote there, so it takes nothing off the check of Host.
                if !self.is_ours(&authority.host, authority.port_by(https), local, true) {
                    return None;
                }
                authority = Authority::parse(host)?;
            }
            if let Some(scheme) = only(headers, "x-forwarded-proto")? {
                https = match scheme {
                    "https" => true,
                    "http" => false,
                    _ => return None,
                };
            }
            client = self.forwarded_for(headers).unwrap_or(client);
        }
        let port = authority.port_by(https);
        if !self.is_ours(&authority.host, port, local, by_proxy) {
            return None;
        }
        let origin = match only(headers, header::ORIGIN.as_str())? {
            None => false,
            Some(origin) => {
                let scheme = if https { "https://" } else { "http://" };
                let theirs = Authority::parse(origin.strip_prefix(scheme)?)?;
                let same = theirs.host == authority.host && theirs.port_by(https) == port;
                if !same {
                    return None;
                }
                true
            }
        };
        Some(Admitted {
            client,
            https,
            origin,
        })
    }

    fn is_ours(&self, host: &Host, port: u16, local: SocketAddr, by_proxy: bool) -> bool {
        // In front of a trusted proxy the port is the proxy's.
        let our_port = by_proxy || port == local.port();
        let listed = self
            .names
            .iter()
            .any(|name| name.host == *host && name.port.map_or(our_port, |named| named == port));
        let address = match host {
            Host::Name(_) => false,
            Host::Address(ip) => ip.is_loopback() || *ip == local.ip().to_canonical(),
        };
        listed || (address && our_port)
    }

    /// The nearest address in `X-Forwarded-For` that is no proxy of ours: what is left of it anybody may have written.
    fn forwarded_for(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let lines: Vec<&str> = headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        lines
            .iter()
            .rev()
            .flat_map(|line| line.rsplit(','))
            .map_while(|text| text.trim().parse::<IpAddr>().ok())
            .map(|ip| ip.to_canonical())
            .find(|ip| !self.proxies.contains(ip))
    }
}

/// Whether a request's `Host` can be this: a name in ASCII or an address, with a port or without.
#[must_use]
pub fn is_authority(text: &str) -> bool {
    Authority::parse(text).is_some()
}

impl Authority {
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = if text.starts_with('[') {
            let end = text.find(']')?;
            (&text[..=end], &text[end + 1..])
        } else {
            text.split_at(text.find(':').unwrap_or(text.len()))
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            _ => return None,
        };
        let host = if let Some(v6) = host.strip_prefix('[') {
            Host::Address(IpAddr::V6(v6.strip_suffix(']')?.parse().ok()?).to_canonical())
        } else if let Ok(v4) = host.parse() {
            Host::Address(IpAddr::V4(v4))
        } else {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            if host.is_empty() || host.len() > 253 || !host.bytes().all(plain) {
                return None;
            }
            Host::Name(host.to_ascii_lowercase())
        };
        Some(Self { host, port })
    }

    /// The port, also where it is left out.
    fn port_by(&self, https: bool) -> u16 {
        self.port.unwrap_or(if https { 443 } else { 80 })
    }
}

/// The one value of a header: outer `None` when it is there twice or is no text.
#[expect(
    clippy::option_option,
    reason = "absent and wrong are different, and `??` and `?` read well at the callers"
)]
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Some(None);
    };
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok().map(Some)
}

#[cfg(test)]
mod tests;
