//! The ghost link: power lost between the phone's acceptance and our own record of it.
//! Whatever was lost, nobody is told that nothing happened while the phone lists a device.

use std::time::Duration;

use hairpin_sim::{Sim, SimConfig, Step};
use serde_json::Value;

use crate::process::Serve;
use crate::rig::{ANNA, BORIS, Rig, code_of};

impl Serve {
    async fn status(&self) -> Value {
        self.ask("GET", "/api/v1/sessions/salon", "")
            .await
            .expect("answered")
            .1
    }
}

async fn roomy() -> Sim {
    Sim::start_with(SimConfig {
        hellos_per_number: usize::MAX,
        max_devices: usize::MAX,
        ..SimConfig::default()
    })
    .await
}

/// Kills the program so long after the simulator reached the step of a pairing; what the next start says.
async fn killed_at(
    sim: &Sim,
    folder: &std::path::Path,
    step: Step,
    later: Duration,
) -> (Serve, Value) {
    let serve = Serve::start(folder, &sim.url(), &[]);
    let (status, answer) = serve.code(ANNA, None).await;
    assert_eq!(status, 200, "{answer}");
    let code = answer["code"].as_str().expect("a code").to_owned();
    let mark = sim.mark();
    let phone = sim.phone(ANNA);
    let typing = tokio::spawn(async move { phone.enter_code(&code).await });
    let reached = sim.wait_for_after(mark, |event| event.step == step).await;
    tokio::time::sleep(later).await;
    serve.kill();
    // The simulator goes to the end of what it was doing before it notices that nobody is there.
    sim.wait_for_after(mark, |event| {
        event.step == Step::Closed && event.conn == reached.conn
    })
    .await;
    let _ = typing.await;
    let serve = Serve::start(folder, &sim.url(), &[]);
    serve.settled().await;
    let status = serve.status().await;
    (serve, status)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_seam_of_linking_the_next_start_tells_the_truth_and_a_new_code_links() {
    let rounds = if std::env::var_os("HAIRPIN_LONG").is_some() {
        40
    } else {
        4
    };
    let mut told = std::collections::BTreeMap::new();
    for step in [
        Step::FinishAnswered,
        Step::PairSuccess,
        Step::PairSuccessSent,
        Step::Sign,
        Step::Linked,
        Step::RestartSent,
    ] {
        for round in 0..rounds {
            let folder = tempfile::tempdir().expect("a folder");
            let sim = roomy().await;
            // At once, then later and later: the writing takes a few milliseconds.
            let later = Duration::from_millis(round * 3);
            let (serve, status) = killed_at(&sim, folder.path(), step, later).await;
            let listed = sim.phone(ANNA).devices().len();
            let state = status["state"].as_str().expect("a state").to_owned();
            match state.as_str() {
                "CONNECTED" => assert_eq!(listed, 1, "{step:?}"),
                "HALF_LINKED" => assert_eq!(status["reason"], "HALF_LINKED"),
                // Our signature never arrived, so the phone lists nothing.
                "LOGGED_OUT" | "UNLINKED" => assert_eq!(listed, 0, "{step:?}: {status}"),
                other => panic!("{step:?}: {other}"),
            }
            *told
                .entry((format!("{step:?}"), state.clone(), listed))
                .or_insert(0) += 1;
            if state != "CONNECTED" {
                let (status, answer) = serve.code(ANNA, None).await;
                assert_eq!(status, 200, "a new code can be asked for: {answer}");
                let code = answer["code"].as_str().expect("a code");
                sim.phone(ANNA).enter_code(code).await.expect("linked");
                serve.state("CONNECTED").await;
            }
            serve.kill();
        }
    }
    println!("{told:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_as_linked_is_linked_after_a_power_cut() {
    let sim = roomy().await;
    let folder = tempfile::tempdir().expect("a folder");
    let serve = Serve::start(folder.path(), &sim.url(), &[]);
    let (_, answer) = serve.code(ANNA, None).await;
    let code = answer["code"].as_str().expect("a code");
    sim.phone(ANNA).enter_code(code).await.expect("linked");
    // The journal's entry is written in one transaction with the link itself.
    let linked = async {
        loop {
            let (_, audit) = serve
                .ask("GET", "/api/v1/audit", "")
                .await
                .expect("answered");
            let entries = audit.as_array().expect("a list").clone();
            if entries.iter().any(|entry| entry["what"] == "linked") {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), linked)
        .await
        .expect("told");
    serve.kill();
    let serve = Serve::start(folder.path(), &sim.url(), &[]);
    serve.state("CONNECTED").await;
    assert_eq!(sim.phone(ANNA).devices().len(), 1);
    serve.kill();
}

/// The store as a power cut leaves it after the acceptance was written down and before anything else was.
async fn half(rig: &mut Rig) {
    let code = code_of(&rig.code("salon", ANNA, None).await);
    assert!(!code.is_empty());
    let row = rig.stored("salon").await.expect("an epoch");
    rig.in_store(async |store| {
        let change = Box::new(|row: &mut hairpin::store::LinkRow| row.finishing = true);
        store
            .update_link("salon", row.epoch, change, Vec::new())
            .await
            .expect("changed");
    })
    .await;
    rig.start().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_link_is_said_to_be_one_until_somebody_links_anew() {
    let mut rig = Rig::new().await;
    half(&mut rig).await;
    let connections = rig.sim.total_connections();
    for _ in 0..2 {
        let status = rig.state("salon", "HALF_LINKED").await;
        assert_eq!(status["reason"], "HALF_LINKED");
        assert_eq!(rig.ask("GET", "/readyz", None).await.status, 503);
        let mut page = rig.page("salon").await;
        let first = page.next_of("session-status").await;
        assert_eq!(first["data"]["state"], "HALF_LINKED");
        rig.restart().await;
    }
    assert_eq!(rig.sim.total_connections(), connections, "nothing is tried");
    let answer = rig.code("salon", ANNA, None).await;
    let code = code_of(&answer);
    assert_eq!(answer.json()["replaced"]["reason"], "stale_credentials");
    assert_eq!(answer.json()["replaced"]["wasLinked"], false);
    rig.sim.phone(ANNA).enter_code(&code).await.expect("linked");
    rig.state("salon", "CONNECTED").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_link_makes_room_for_another_number_and_can_be_unlinked() {
    let mut rig = Rig::new().await;
    half(&mut rig).await;
    rig.state("salon", "HALF_LINKED").await;
    let answer = rig.code("salon", BORIS, None).await;
    assert_eq!(answer.json()["replaced"]["reason"], "phone_mismatch");
    code_of(&answer);
    rig.stop().await;
    let mut rig = Rig::new().await;
    half(&mut rig).await;
    rig.state("salon", "HALF_LINKED").await;
    let unlinked = rig.ask("DELETE", "/api/v1/sessions/salon/link", None).await;
    assert_eq!(unlinked.status, 204);
    assert_eq!(rig.status("salon").await["state"], "UNLINKED");
    assert!(rig.stored("salon").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_whose_keys_were_saved_and_whose_row_was_not_is_a_whole_one() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let row = rig.stored("salon").await.expect("a link");
    rig.in_store(async |store| {
        let change = Box::new(|row: &mut hairpin::store::LinkRow| {
            row.linked = None;
            row.finishing = true;
        });
        store
            .update_link("salon", row.epoch, change, Vec::new())
            .await
            .expect("changed");
    })
    .await;
    rig.start().await;
    rig.state("salon", "CONNECTED").await;
    let entries = rig.audit().await;
    let linked = entries
        .iter()
        .find(|entry| entry["what"] == "linked")
        .expect("journalled");
    assert_eq!(linked["outcome"], "after_restart");
    assert_eq!(linked["phone"], "79001***567");
    rig.stop().await;
}
