//! Owns the page's certificate: it is read at the start, and again by the first handshake after its files changed.
//! A pair that cannot be used never takes the place of one that can.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{InconsistentKeys, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::peer::Peer;

/// What somebody reads who left out the `s` of `https`.
const NO_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Connection: close\r\n\r\nThis page speaks HTTPS alone: its address begins with https://\n";

/// The page's certificate and key, in use. TLS 1.3 and HTTP/1.1 only.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
}

/// A pair of files that cannot be used: one line, with the mend.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// The files, and what they held when they were last looked at.
#[derive(Debug)]
struct Pair {
    cert: PathBuf,
    key: PathBuf,
    /// Held while two small files are read, once for each time that they change.
    served: Mutex<Served>,
}

#[derive(Debug)]
struct Served {
    seen: [Stamp; 2],
    pair: Arc<CertifiedKey>,
}

/// What changes when a file is written or replaced; none if it cannot be looked at.
type Stamp = Option<(u64, u64, i64, i64, i64, i64)>;

impl Tls {
    /// Reads a certificate (with those above it, if there are any) and its key, both PEM.
    ///
    /// # Errors
    /// When one of them is missing, holds something else, or they do not belong together.
    pub fn open(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let seen = [stamp(cert), stamp(key)];
        let pair = read(cert, key)?;
        if fs::metadata(key).is_ok_and(|meta| meta.mode() & 0o004 != 0) {
            // It may belong to another program as well, so it is left as it is.
            tracing::warn!(path = %key.display(), "web.tls_key is a file that everybody on this machine may read; `chmod o-rwx` closes it");
        }
        let resolver = Pair {
            cert: cert.to_owned(),
            key: key.to_owned(),
            served: Mutex::new(Served { seen, pair }),
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| TlsError(format!("TLS cannot be served: {error}")))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }

    /// Begins TLS with a client. One that speaks plain HTTP is told so and gets an error here.
    pub(super) async fn accept(&self, mut client: Peer) -> io::Result<TlsStream<Peer>> {
        if client.first_byte().await?.is_ascii_alphabetic() {
            client.write_all(NO_TLS).await?;
            client.shutdown().await?;
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.acceptor.accept(client).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Pair {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at before they are read: what changes while they are read is read by the next handshake.
        let seen = [stamp(&self.cert), stamp(&self.key)];
        if seen != served.seen {
            served.seen = seen;
            match read(&self.cert, &self.key) {
                Ok(pair) => {
                    tracing::info!("the page's new certificate is in use");
                    served.pair = pair;
                }
                Err(error) => {
                    tracing::warn!(%error, "the page's certificate was changed and cannot be used; the last one is served");
                }
            }
        }
        Some(Arc::clone(&served.pair))
    }
}

fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some((
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    ))
}

fn read(cert: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    let no_cert = |error: pem::Error| unreadable("web.tls_cert", cert, "certificate", &error);
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(no_cert)?;
    if chain.is_empty() {
        return Err(no_cert(pem::Error::NoItemsFound));
    }
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| unreadable("web.tls_key", key, "private key", &error))?;
    let pair = CertifiedKey::from_der(chain, secret, &ring::default_provider());
    pair.map(Arc::new).map_err(|error| {
        TlsError(match error {
            tokio_rustls::rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => format!(
                "web.tls_key: {} is not the key of the certificate in {}; name the one that was made with it",
                key.display(),
                cert.display()
            ),
            error => format!(
                "web.tls_cert: {} and {} cannot be used: {error}; `hairpin tls-self-signed` makes a pair that can",
                cert.display(),
                key.display()
            ),
        })
    })
}

fn unreadable(setting: &str, path: &Path, wanted: &str, error: &pem::Error) -> TlsError {
    let path = path.display();
    TlsError(match error {
        pem::Error::Io(error) => {
            format!(
                "{setting}: {path} cannot be read: {error}; it must be readable for the user the appliance runs as"
            )
        }
        pem::Error::NoItemsFound => {
            format!("{setting}: there is no {wanted} in {path}; it must be a PEM file with one")
        }
        error => format!("{setting}: {path} is no PEM file: {error}"),
    })
}

#[cfg(test)]
pub(crate) mod tests;
