//! Owns running the simulator by itself, for any companion program: `cargo run --example simulator -- --listen 127.0.0.1:7777`.

use std::net::SocketAddr;

use clap::Parser;
use hairpin_sim::{Sim, SimConfig};

/// A simulated WhatsApp server with phones, on a loopback address.
#[derive(Parser)]
struct Args {
    /// Where to listen; loopback addresses only.
    #[arg(long, default_value = "127.0.0.1:7777")]
    listen: SocketAddr,
    /// Print everything that happens, one JSON object a line.
    #[arg(long)]
    events: bool,
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let sim = Sim::start_on(args.listen, SimConfig::default()).await?;
    let at = sim.addr();
    println!(
        "\
Point a companion at {url}
It must not check WhatsApp's certificate: this server's chain is signed by a root of its own.

Play the person:
  curl http://{at}/ctl/enter-code -d '{{\"phone\":\"79000000001\",\"code\":\"ABCD-EFGH\"}}'
  curl http://{at}/ctl/scan-qr    -d '{{\"phone\":\"79000000001\",\"value\":\"2@…\"}}'
  curl http://{at}/ctl/unlink     -d '{{\"phone\":\"79000000001\",\"device\":1}}'
  curl http://{at}/ctl/send-text  -d '{{\"phone\":\"79000000001\",\"device\":1,\"text\":\"hello\"}}'
  curl http://{at}/ctl/phone-as   -d '{{\"typed\":\"5511900000001\",\"reported\":\"551100000001\"}}'
  curl http://{at}/ctl/phones

Order trouble, to come or at once:
  curl http://{at}/ctl/fault -d '{{\"at\":\"hello\",\"action\":\"refuse\",\"code\":429,\"backoff\":30}}'
  curl http://{at}/ctl/fault -d '{{\"at\":\"finish\",\"action\":\"cut\",\"phone\":\"79000000001\",\"times\":2}}'
  curl http://{at}/ctl/fault -d '{{\"at\":\"login\",\"action\":\"kick\",\"kick\":{{\"kind\":\"failure\",\"reason\":402,\"expire\":3600}}}}'
  curl http://{at}/ctl/kick  -d '{{\"phone\":\"79000000001\",\"kind\":\"replaced\"}}'
  curl http://{at}/ctl/clear-faults -d ''
  curl http://{at}/ctl/events
",
        url = sim.url()
    );
    let mut newest = 0;
    loop {
        tokio::select! {
            event = sim.next_event(newest) => {
                newest = event.seq;
                if args.events {
                    println!("{}", serde_json::to_string(&event)?);
                }
            }
            ended = tokio::signal::ctrl_c() => return ended,
        }
    }
}
