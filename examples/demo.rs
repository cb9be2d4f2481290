//! The whole flow without a phone: a simulated WhatsApp and the appliance in one process.
//!
//! `cargo run --release --example demo` prints the page's address; the terminal plays the phone.
//! With `--auto` the phone types every code by itself, three seconds after it is shown.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use hairpin::app::Appliance;
use hairpin::config::{Settings, Sources};
use hairpin_sim::Sim;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

type Failure = Box<dyn std::error::Error>;

const HELP: &str = "\
Open the address in a browser, type any phone number (say 8 900 123-45-67), and ask for a code.
Then play the phone here:
  ABCD-EFGH        types a code on the phone that waits for one
  unlink           throws every linked device out, as a person would on the phone
  quit             ends the demo (so does Ctrl-C)";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut listen = "127.0.0.1:7247".to_owned();
    let mut auto = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--auto" => auto = true,
            "--listen" => listen = arguments.next().ok_or("--listen wants ADDR:PORT")?,
            _ => return Err("usage: demo [--auto] [--listen ADDR:PORT]".into()),
        }
    }
    let sim = Sim::start().await;
    let folder = tempfile::tempdir()?;
    let empty = folder.path().join("hairpin.toml");
    std::fs::write(&empty, "")?;
    let settings = Settings::read(&Sources {
        file: Some(empty),
        flags: BTreeMap::from([
            ("listen", listen),
            ("whatsapp.url", sim.url()),
            ("data_dir", folder.path().join("data").display().to_string()),
            ("pairing.requests_per_number", "0".to_owned()),
        ]),
        env: BTreeMap::new(),
    })?;
    let appliance = Appliance::start(settings)
        .await
        .map_err(|error| error.message)?;
    println!("Hairpin's demo is at {}", appliance.open_address().reveal());
    println!("{HELP}");
    if auto {
        let (address, key) = (appliance.address().to_owned(), appliance.access_key());
        let sim = sim.clone();
        tokio::spawn(async move {
            if let Err(error) = type_every_code(&address, key.reveal(), &sim).await {
                eprintln!("the automatic phone stopped: {error}");
            }
        });
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut open = true;
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            line = lines.next_line(), if open => match line? {
                // No terminal: Ctrl-C ends it.
                None => open = false,
                Some(line) => match line.trim() {
                    "" => {}
                    "quit" => break,
                    "unlink" => unlink(&sim).await,
                    code => type_code(&sim, code).await,
                },
            },
        }
    }
    appliance.stop().await;
    sim.stop().await;
    Ok(())
}

/// Types a code on the phone that waits for one.
async fn type_code(sim: &Sim, code: &str) {
    let waiting = sim
        .phones()
        .into_iter()
        .find(|phone| sim.has_pending_code(phone.number()));
    match waiting {
        None => println!("no phone waits for a code; ask for one on the page first"),
        Some(phone) => match phone.enter_code(code).await {
            Ok(_) => println!("the phone says: device linked"),
            Err(error) => println!("the phone says: couldn't link device ({error})"),
        },
    }
}

async fn unlink(sim: &Sim) {
    for phone in sim.phones() {
        for device in phone.devices() {
            phone.remove_device(device.id).await;
            println!("the phone says: device removed");
        }
    }
}

/// Watches the page's own socket, as a script would, and types what it shows.
async fn type_every_code(address: &str, key: &str, sim: &Sim) -> Result<(), Failure> {
    let url = format!("{}ws", address.replacen("http", "ws", 1));
    let mut request = url.into_client_request()?;
    request
        .headers_mut()
        .insert("Authorization", format!("Bearer {key}").parse()?);
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await?;
    while let Some(frame) = socket.next().await {
        let Ok(text) = frame?.into_text() else {
            continue;
        };
        let Ok(message) = serde_json::from_str::<serde_json::Value>(&text) else {
            continue;
        };
        if message["event"] == "pairing-code"
            && let Some(code) = message["data"]["code"].as_str()
        {
            tokio::time::sleep(Duration::from_secs(3)).await;
            type_code(sim, code).await;
        }
    }
    Ok(())
}
