//! Owns the making of a certificate that nobody but the salon vouches for.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

const DAY: Duration = Duration::from_hours(24);

/// A certificate, and the key that belongs to it.
pub struct SelfSigned {
    /// PEM.
    pub cert: String,
    /// PEM.
    pub key: Zeroizing<String>,
    /// SHA-256 of the certificate as browsers show it: `AB:CD:…`.
    pub fingerprint: String,
}

impl SelfSigned {
    /// Makes a pair for these names and addresses, good from yesterday (clocks differ) for so many days from now.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate.
    pub fn make(names: &[String], days: u32) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "Hairpin");
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let at = |age: Duration| date_time_ymd(1970, 1, 1) + age;
        params.not_before = at(now.saturating_sub(DAY));
        params.not_after = at(now + DAY * days);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let cert = params.self_signed(&key)?;
        let digest = Sha256::digest(cert.der());
        let pairs: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        Ok(Self {
            cert: cert.pem(),
            key: Zeroizing::new(key.serialize_pem()),
            fingerprint: pairs.join(":"),
        })
    }
}

impl std::fmt::Debug for SelfSigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SelfSigned")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// The address by which this machine reaches others; nothing is sent to find it out.
#[must_use]
pub fn own_address() -> Option<IpAddr> {
    // Documentation addresses (RFC 5737, RFC 3849): nobody has them, so the way to them is the way out.
    let ways = [
        (SocketAddr::from(([0, 0, 0, 0], 0)), "192.0.2.1:9"),
        (SocketAddr::from(([0u16; 8], 0)), "[2001:db8::1]:9"),
    ];
    ways.into_iter().find_map(|(any, far)| {
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(far).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}
