//! Owns the way in for tests that read at random: what the web layer makes of a head or a message, without a socket.
//! It must decide nothing itself: whatever it tells is what the door goes by.

use std::net::{IpAddr, SocketAddr};

use http::Request;

use super::guard::Guard;
use super::ws_message::{self, Ask};
use super::{WebSettings, body, edge, login, ws};
use crate::words::Lang;

/// A message as it is understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The id to echo.
    pub id: Option<String>,
    /// What is wanted, by the contract's name.
    pub event: &'static str,
    /// Of a request for a code: the number, the country, what is to be replaced.
    pub code: Option<(String, Option<String>, Option<String>)>,
}

/// Reads a message; of a wrong one its id, where that much can be read.
///
/// # Errors
/// When it has not the promised shape.
pub fn message(text: &str) -> Result<Said, Option<String>> {
    let message = ws_message::parse(text).map_err(|wrong| wrong.id)?;
    let (event, code) = match message.ask {
        Ask::Code(body) => (
            "request-pairing-code",
            Some((
                body.phone_number.reveal().to_owned(),
                body.country,
                body.replace,
            )),
        ),
        Ask::Cancel => ("cancel-pairing", None),
        Ask::Reconnect => ("reconnect", None),
        Ask::Unlink => ("unlink", None),
    };
    let id = message.id;
    Ok(Said { id, event, code })
}

/// What is read in a request's head.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one question to one field"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Who asks, whether over TLS, and whether an `Origin` was there; none is refused for its Host or Origin.
    pub admitted: Option<(IpAddr, bool, bool)>,
    /// The login's token, over plain HTTP and over TLS.
    pub tokens: [Option<String>; 2],
    /// The key that is presented.
    pub bearer: Option<String>,
    /// With what, for the journal.
    pub user_agent: Option<String>,
    /// Whether the body says that it is JSON.
    pub json: bool,
    /// Whether a browser says that another site caused it.
    pub cross_site: bool,
    /// Whether it asks for no other protocol than it may.
    pub upgrade: bool,
    /// Whether it is the handshake of a WebSocket.
    pub socket: bool,
    /// The language it likes best.
    pub lang: Option<Lang>,
}

/// Reads a head that came from an address to one of ours.
#[must_use]
pub fn head<B>(
    settings: &WebSettings,
    request: &Request<B>,
    peer: IpAddr,
    local: SocketAddr,
) -> Head {
    let headers = request.headers();
    let admitted = Guard::new(settings).check(request, peer, local);
    let token = |https| login::token(headers, https).map(ToOwned::to_owned);
    Head {
        admitted: admitted.map(|admitted| (admitted.client, admitted.https, admitted.origin)),
        tokens: [token(false), token(true)],
        bearer: edge::bearer(headers).map(ToOwned::to_owned),
        user_agent: edge::user_agent(headers),
        json: body::is_json(headers),
        cross_site: edge::is_cross_site(headers),
        upgrade: edge::check_upgrade(headers, request.uri().path()).is_ok(),
        socket: ws::accept(headers).is_some(),
        lang: edge::liked(headers),
    }
}
