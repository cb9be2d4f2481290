//! A hundred sessions at once: everybody gets a code, nobody gets another's, and memory stays bounded.

use std::collections::HashSet;
use std::sync::Arc;

use hairpin_sim::{Sim, SimConfig};
use serde_json::json;

use crate::rig::{Rig, code_of};

/// The memory this process holds, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .expect("a size")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_sessions_at_once_each_get_their_own_code() {
    let sim = Sim::start_with(SimConfig::default()).await;
    let mut rig = Rig::with_sim(sim, &[("whatsapp.connect_timeout", "120")]).await;
    for index in 0..100 {
        let answer = rig
            .ask(
                "PUT",
                &format!("/api/v1/sessions/s{index}"),
                Some(json!({ "name": format!("Salon {index}") })),
            )
            .await;
        assert_eq!(answer.status, 201);
    }
    let before = resident();
    let shared = Arc::new(rig);
    let mut asks = tokio::task::JoinSet::new();
    for index in 0..100 {
        let rig = Arc::clone(&shared);
        asks.spawn(async move {
            let number = format!("790012340{index:02}");
            let answer = rig.code(&format!("s{index}"), &number, None).await;
            (index, number, code_of(&answer))
        });
    }
    let all = asks.join_all().await;
    let codes: HashSet<&String> = all.iter().map(|(_, _, code)| code).collect();
    assert_eq!(codes.len(), 100, "none gets another's");
    let grown = resident().saturating_sub(before);
    assert!(
        grown < 400 * 1024,
        "{grown} KiB for a hundred clients and their other ends"
    );
    let (index, number, code) = &all[42];
    shared
        .sim
        .phone(number)
        .enter_code(code)
        .await
        .expect("linked");
    shared.state(&format!("s{index}"), "CONNECTED").await;
    rig = Arc::into_inner(shared).expect("nobody else holds it");
    rig.stop().await;
}
