//! Owns the settings of a simulator: how long things live, how often they may be asked for.

use std::time::Duration;

/// What a simulator can be told. `Default` is as WhatsApp is known to behave.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// How long the first QR ref of a connection can be scanned.
    pub qr_first: Duration,
    /// How long each further QR ref can be scanned, after the one before it.
    pub qr_next: Duration,
    /// How long a pairing code can be typed.
    pub code_ttl: Duration,
    /// How many times one code may be tried on the phone.
    pub tries_per_code: u32,
    /// How long a phone waits for the companion's half of the pairing before it gives up.
    pub companion_patience: Duration,
    /// How many codes one number may be asked for in [`SimConfig::hello_window`]; above it: 400.
    pub hellos_per_number: usize,
    /// How many codes one connection may ask for in [`SimConfig::hello_window`]; above it: 429.
    pub hellos_per_connection: usize,
    /// The window the two limits above are counted in.
    pub hello_window: Duration,
    /// How many companions one phone may have linked.
    pub max_devices: usize,
    /// How long after a companion has signed the restart demand (515) follows. On WhatsApp it takes a round trip and
    /// more; whatsapp-rust sets "this disconnect is expected" only *after* sending its signature, and a 515 that is
    /// faster than that makes it drop the connection it has just made anew.
    pub restart_after: Duration,
    /// How often the server pings a logged-in companion. One that has not answered by the next ping is cut off.
    pub ping_every: Duration,
    /// How long an accepted socket may take to finish the Noise handshake.
    pub handshake_limit: Duration,
    /// How long a connection stays open after the server has said why it ends.
    pub linger: Duration,
    /// Whether the phone volunteers an app-state key after the login of a new companion, as real ones do.
    /// Without it the client waits ten seconds before it counts as connected.
    pub share_app_state_key: bool,
    /// After how long [`Sim::wait_for`](crate::Sim::wait_for) gives up and panics.
    pub wait_limit: Duration,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            qr_first: Duration::from_mins(1),
            qr_next: Duration::from_secs(20),
            code_ttl: Duration::from_mins(3),
            tries_per_code: 3,
            companion_patience: Duration::from_mins(1),
            hellos_per_number: 40,
            hellos_per_connection: 20,
            hello_window: Duration::from_mins(10),
            max_devices: 4,
            restart_after: Duration::from_millis(100),
            ping_every: Duration::from_secs(30),
            handshake_limit: Duration::from_secs(20),
            linger: Duration::from_secs(1),
            share_app_state_key: true,
            wait_limit: Duration::from_mins(1),
        }
    }
}
