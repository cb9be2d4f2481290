//! The main job, end to end: a number typed, a code shown, a phone linked, and kept.

use std::time::{Duration, Instant};

use hairpin::phone::{Country, Phone};
use hairpin::store::Store;
use hairpin_sim::{Fault, Kick, Sim, SimConfig, Step};
use serde_json::{Value, json};

use crate::rig::{ANNA, BORIS, PATIENCE, Rig, code_of};
use crate::supervision::{fall_silent, never_two_connections};

/// A request that is allowed two seconds, and what a busy machine adds.
const IN_TIME: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_number_becomes_a_code_and_the_code_a_link_that_survives_a_restart() {
    let mut rig = Rig::new().await;
    let mut page = rig.page("salon").await;
    let first = page.next().await;
    assert_eq!(first["event"], "session-status");
    assert_eq!(first["data"]["state"], "UNLINKED");
    assert_eq!(first["data"]["phone"], Value::Null);

    page.send(json!({ "event": "request-pairing-code", "id": "1", "data": { "phoneNumber": "8 (900) 123-45-67", "country": "RU" } })).await;
    let shown = page.next_of("pairing-code").await;
    let data = &shown["data"];
    assert_eq!(data["session"], "salon");
    assert_eq!(data["phoneNumber"], "79001***567");
    assert_eq!(data["replaced"], Value::Null);
    let left = data["expiresIn"].as_u64().expect("seconds");
    assert!(
        (150..=170).contains(&left),
        "180 s less 10 s of grace, not {left}"
    );
    let code = data["code"].as_str().expect("a code").to_owned();
    assert_eq!((code.len(), &code[4..5]), (9, "-"));

    rig.sim.phone(ANNA).enter_code(&code).await.expect("linked");
    assert_eq!(
        page.next_of("pairing-code-ended").await["data"]["reason"],
        "linked"
    );
    let status = rig.state("salon", "CONNECTED").await;
    assert_eq!(status["phone"], "79001***567");
    assert!(status["lastConnected"].is_i64());
    assert_eq!(rig.ask("GET", "/readyz", None).await.status, 200);

    rig.restart().await;
    rig.state("salon", "CONNECTED").await;
    assert_eq!(
        rig.sim.phone(ANNA).devices().len(),
        1,
        "linked once, without a person"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_services_own_scenario_a_wrong_number_left_behind_does_not_keep_the_right_one_out()
{
    let mut rig = Rig::new().await;
    rig.link("salon", BORIS).await;
    // The phone throws the device out: what lies in the store is dead, and of the wrong number.
    let device = rig.sim.phone(BORIS).devices()[0].id;
    rig.sim.phone(BORIS).remove_device(device).await;
    rig.state("salon", "LOGGED_OUT").await;
    let old = rig.stored("salon").await.expect("left behind");
    rig.start().await;

    let answer = rig.code("salon", ANNA, None).await;
    let code = code_of(&answer);
    let replaced = &answer.json()["replaced"];
    assert_eq!(replaced["reason"], "phone_mismatch");
    assert_eq!(replaced["oldPhone"], "79007***321");
    assert_eq!(replaced["wasLinked"], true);
    assert!(replaced["credentialAgeSeconds"].is_u64());
    rig.sim.phone(ANNA).enter_code(&code).await.expect("linked");
    rig.state("salon", "CONNECTED").await;

    let whats: Vec<String> = rig
        .audit()
        .await
        .iter()
        .map(|e| e["what"].as_str().expect("what").to_owned())
        .collect();
    for what in [
        "requested",
        "mismatch_wiped",
        "code_shown",
        "linked",
        "logged_out",
    ] {
        assert!(
            whats.iter().any(|w| w == what),
            "{what} is missing in {whats:?}"
        );
    }
    let new = rig.stored("salon").await.expect("linked");
    assert!(new.epoch > old.epoch);
    assert_eq!(new.line.reveal(), ANNA);
    rig.in_store(async |store| {
        use hairpin::store::StoreError;
        use whatsapp_rust::traits::DeviceStore;
        let gone = store
            .backend("salon", old.epoch)
            .load()
            .await
            .err()
            .expect("the old keys are nowhere");
        assert!(
            format!("{gone:?}").contains(&format!("{:?}", StoreError::StaleEpoch)),
            "{gone:?}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_credentials_of_the_same_number_do_not_keep_its_code_away() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let device = rig.sim.phone(ANNA).devices()[0].id;
    rig.sim.phone(ANNA).remove_device(device).await;
    let status = rig.state("salon", "LOGGED_OUT").await;
    assert_eq!(status["reason"], "LOGGED_OUT");
    let answer = rig.code("salon", ANNA, None).await;
    let code = code_of(&answer);
    assert_eq!(answer.json()["replaced"]["reason"], "stale_credentials");
    rig.sim.phone(ANNA).enter_code(&code).await.expect("linked");
    rig.state("salon", "CONNECTED").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_link_is_replaced_only_by_its_own_name_and_only_when_whatsapp_answers() {
    let mut rig = Rig::with(&[("whatsapp.connect_timeout", "2")]).await;
    rig.link("salon", ANNA).await;

    let refused = rig.code("salon", BORIS, None).await;
    assert_eq!(refused.status, 409);
    let problem = refused.json();
    assert_eq!(problem["code"], "REPLACE_CONFIRMATION_REQUIRED");
    assert_eq!(problem["oldPhone"], "79001***567");
    let link_id = problem["linkId"].as_str().expect("an id").to_owned();

    let same = rig.code("salon", ANNA, None).await;
    assert_eq!(
        (same.status, same.json()["code"].as_str()),
        (409, Some("ALREADY_LINKED"))
    );
    let foreign = rig.code("salon", BORIS, Some("another-links-id")).await;
    assert_eq!(foreign.json()["code"], "REPLACE_CONFIRMATION_REQUIRED");
    assert_eq!(rig.status("salon").await["state"], "CONNECTED");

    // WhatsApp does not answer newcomers: nothing is given up for a code that may not come.
    rig.sim.fault(Fault::silence(Step::Login).standing());
    rig.sim.fault(Fault::cut(Step::Register).standing());
    let silent = rig.code("salon", BORIS, Some(&link_id)).await;
    assert_eq!(
        (silent.status, silent.json()["code"].as_str()),
        (503, Some("WHATSAPP_UNREACHABLE"))
    );
    assert_eq!(rig.status("salon").await["state"], "CONNECTED");
    assert_eq!(rig.sim.phone(ANNA).devices().len(), 1);
    rig.reads_what_the_phone_writes(ANNA).await;

    rig.sim.clear_faults();
    let answer = rig.code("salon", BORIS, Some(&link_id)).await;
    let code = code_of(&answer);
    assert_eq!(answer.json()["replaced"]["wasLinked"], true);
    assert_eq!(rig.sim.phone(ANNA).devices().len(), 0, "WhatsApp was told");
    rig.sim
        .phone(BORIS)
        .enter_code(&code)
        .await
        .expect("linked");
    rig.state("salon", "CONNECTED").await;
    let wiped = rig
        .audit()
        .await
        .into_iter()
        .find(|e| e["what"] == "mismatch_wiped")
        .expect("journalled");
    assert_eq!(wiped["confirmed"], true);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_tabs_and_the_api_at_once_get_one_code_over_one_connection() {
    let mut rig = Rig::new().await;
    let mut pages = Vec::new();
    for _ in 0..10 {
        pages.push(rig.page("salon").await);
    }
    for page in &mut pages {
        page.send(json!({ "event": "request-pairing-code", "data": { "phoneNumber": ANNA } }))
            .await;
    }
    let over_api = code_of(&rig.code("salon", "+7 900 123-45-67", None).await);
    for page in &mut pages {
        assert_eq!(
            page.next_of("pairing-code").await["data"]["code"],
            over_api.as_str()
        );
    }
    // Asked again while it lives: the same code with the time that is left.
    assert_eq!(
        code_of(&rig.code("salon", "89001234567", None).await),
        over_api
    );
    assert_eq!(rig.sim.total_connections(), 1);
    assert_eq!(rig.sim.hellos(ANNA), 1);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_while_the_first_connection_is_being_made_there_is_still_one() {
    let mut rig = Rig::new().await;
    rig.sim
        .fault(Fault::delay(Step::Open, Duration::from_millis(300)));
    let (one, other) = tokio::join!(rig.code("salon", ANNA, None), async {
        rig.sim.wait_for(|event| event.step == Step::Open).await;
        rig.code("salon", ANNA, None).await
    });
    assert_eq!(code_of(&one), code_of(&other));
    assert_eq!(rig.sim.total_connections(), 1);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_ends_the_first_ones_code_for_good() {
    let mut rig = Rig::new().await;
    let mut page = rig.page("salon").await;
    let first = code_of(&rig.code("salon", ANNA, None).await);
    let second = code_of(&rig.code("salon", BORIS, None).await);
    assert_ne!(first, second);
    assert_eq!(
        page.next_of("pairing-code-ended").await["data"]["reason"],
        "superseded"
    );
    assert!(
        rig.sim.phone(ANNA).enter_code(&first).await.is_err(),
        "the old code can no longer link anything"
    );
    rig.sim
        .phone(BORIS)
        .enter_code(&second)
        .await
        .expect("linked");
    rig.state("salon", "CONNECTED").await;
    let row = rig.stored("salon").await.expect("a link");
    assert_eq!(row.line.reveal(), BORIS, "nothing of the first is stored");
    assert!(rig.sim.phone(ANNA).devices().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_asked_between_wipe_and_new_connection_wins() {
    let mut rig = Rig::new().await;
    rig.sim
        .fault(Fault::delay(Step::Open, Duration::from_millis(500)));
    let (first, second) = tokio::join!(rig.code("salon", ANNA, None), async {
        rig.sim.wait_for(|event| event.step == Step::Open).await;
        rig.code("salon", BORIS, None).await
    });
    assert_eq!(
        (first.status, first.json()["code"].as_str()),
        (409, Some("SUPERSEDED"))
    );
    let code = code_of(&second);
    rig.sim
        .phone(BORIS)
        .enter_code(&code)
        .await
        .expect("linked");
    rig.state("salon", "CONNECTED").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_code_links_nothing_and_a_new_one_can_be_had() {
    let mut rig = Rig::new().await;
    let code = code_of(&rig.code("salon", ANNA, None).await);
    let mut page = rig.page("salon").await;
    assert_eq!(
        page.next_of("pairing-code").await["data"]["code"],
        code.as_str()
    );
    page.send(json!({ "event": "cancel-pairing", "data": {} }))
        .await;
    assert_eq!(
        page.next_of("pairing-code-ended").await["data"]["reason"],
        "cancelled"
    );
    rig.state("salon", "UNLINKED").await;
    assert!(rig.sim.phone(ANNA).enter_code(&code).await.is_err());
    rig.link("salon", ANNA).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_code_leaves_the_right_one_usable_and_cancelling_meanwhile_is_refused() {
    let mut rig = Rig::new().await;
    let code = code_of(&rig.code("salon", ANNA, None).await);
    let phone = rig.sim.phone(ANNA);
    assert!(phone.enter_code("ABCD-2345").await.is_err());
    rig.state("salon", "LINKING").await;
    let cancel = rig
        .ask("DELETE", "/api/v1/sessions/salon/pairing-code", None)
        .await;
    assert_eq!(
        (cancel.status, cancel.json()["code"].as_str()),
        (409, Some("LINKING_IN_PROGRESS"))
    );
    let other = rig.code("salon", BORIS, None).await;
    assert_eq!(other.json()["code"], "LINKING_IN_PROGRESS");
    phone
        .enter_code(&code)
        .await
        .expect("linked at the second try");
    rig.state("salon", "CONNECTED").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_whatsapp_refuses_is_told_by_its_name() {
    let mut rig = Rig::new().await;
    for (fault, status, code) in [
        (Fault::refuse_hello(400), 429, "WHATSAPP_RATE_LIMITED"),
        (
            Fault::refuse_hello(429).backoff(30),
            429,
            "WHATSAPP_RATE_LIMITED",
        ),
        (Fault::refuse_hello(403), 502, "WHATSAPP_REJECTED"),
        (Fault::refuse_hello(500), 502, "WHATSAPP_REJECTED"),
    ] {
        rig.sim.fault(fault);
        let answer = rig.code("salon", ANNA, None).await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (status, Some(code))
        );
        if code == "WHATSAPP_RATE_LIMITED" && answer.json()["retryAfter"].is_u64() {
            assert_eq!(answer.json()["retryAfter"], 30);
        }
        rig.state("salon", "UNLINKED").await;
    }
    rig.link("salon", ANNA).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_code_the_qr_still_links() {
    let mut rig = Rig::new().await;
    let mut page = rig.page("salon").await;
    rig.sim.fault(Fault::refuse_hello(452));
    let answer = rig.code("salon", ANNA, None).await;
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (502, Some("CODE_NOT_AVAILABLE"))
    );
    rig.state("salon", "AWAITING_SCAN").await;
    let qr = page.next_of("qr").await;
    let value = qr["data"]["value"].as_str().expect("a QR").to_owned();
    assert!(qr["data"]["svg"].as_str().expect("drawn").contains("<svg"));
    rig.sim.phone(ANNA).scan_qr(&value).await.expect("linked");
    rig.state("salon", "CONNECTED").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qr_scanned_by_another_phone_is_unlinked_and_told() {
    let mut rig = Rig::new().await;
    let mut page = rig.page("salon").await;
    code_of(&rig.code("salon", ANNA, None).await);
    let qr = page.next_of("qr").await;
    rig.sim
        .phone(BORIS)
        .scan_qr(qr["data"]["value"].as_str().expect("a QR"))
        .await
        .expect("any phone can scan it");
    loop {
        let error = page.next_of("pairing-code-error").await;
        if error["data"]["code"] == "WRONG_PHONE_LINKED" {
            break;
        }
    }
    rig.state("salon", "UNLINKED").await;
    assert_eq!(rig.sim.phone(BORIS).devices().len(), 0, "unlinked again");
    assert!(rig.audit().await.iter().any(|e| e["what"] == "wrong_phone"));
    assert!(rig.stored("salon").await.is_none(), "and wiped");
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_whatsapp_rewrites_are_no_mismatch() {
    let mut rig = Rig::new().await;
    let phone = rig.sim.phone_as("5511987654321", "551187654321");
    let code = code_of(&rig.code("salon", "+55 11 98765-4321", None).await);
    phone.enter_code(&code).await.expect("linked");
    rig.state("salon", "CONNECTED").await;
    let same = rig.code("salon", "+55 11 8765-4321", None).await;
    assert_eq!(
        same.json()["code"],
        "ALREADY_LINKED",
        "another spelling is the same line"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_whatsapp_the_page_is_there_and_a_request_says_so_in_time() {
    let sim = Sim::start().await;
    sim.stop().await;
    let mut rig = Rig::with_sim(sim, &[("whatsapp.connect_timeout", "2")]).await;
    assert_eq!(rig.ask("GET", "/", None).await.status, 200);
    let asked = Instant::now();
    let answer = rig.code("salon", ANNA, None).await;
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (503, Some("WHATSAPP_UNREACHABLE"))
    );
    assert!(asked.elapsed() < IN_TIME, "{:?}", asked.elapsed());
    rig.sim.resume().await;
    rig.link("salon", ANNA).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_is_given_up_in_time() {
    let mut rig = Rig::with(&[("whatsapp.connect_timeout", "2")]).await;
    // From its very first word on, or only when it is asked for the code.
    for step in [Step::Open, Step::Hello] {
        rig.sim.fault(Fault::silence(step));
        let asked = Instant::now();
        let answer = rig.code("salon", ANNA, None).await;
        assert_eq!(answer.json()["code"], "WHATSAPP_UNREACHABLE", "{step:?}");
        assert!(asked.elapsed() < IN_TIME, "{step:?}: {:?}", asked.elapsed());
    }
    rig.link("salon", ANNA).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_drops_in_any_step_is_told_and_asking_again_works() {
    for step in [
        Step::Open,
        Step::Noise,
        Step::Register,
        Step::PairDevice,
        Step::Hello,
        Step::HelloAnswered,
    ] {
        let mut rig = Rig::new().await;
        let mut page = rig.page("salon").await;
        rig.sim.fault(Fault::cut(step));
        let answer = rig.code("salon", ANNA, None).await;
        if answer.status == 200 {
            // The code was there before the connection went.
            assert_eq!(
                page.next_of("pairing-code-ended").await["data"]["reason"],
                "failed",
                "{step:?}"
            );
        } else {
            assert_eq!(answer.json()["code"], "WHATSAPP_UNREACHABLE", "{step:?}");
        }
        rig.state("salon", "UNLINKED").await;
        rig.link("salon", ANNA).await;
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_drops_while_linking_is_told_and_asking_again_works() {
    for step in [
        Step::PrimaryHelloSent,
        Step::Finish,
        Step::FinishAnswered,
        Step::PairSuccess,
        Step::PairSuccessSent,
    ] {
        let mut rig = Rig::new().await;
        let mut page = rig.page("salon").await;
        rig.sim.fault(Fault::cut(step));
        let code = code_of(&rig.code("salon", ANNA, None).await);
        let _ = rig.sim.phone(ANNA).enter_code(&code).await;
        assert_eq!(
            page.next_of("pairing-code-ended").await["data"]["reason"],
            "failed",
            "{step:?}"
        );
        rig.state("salon", "UNLINKED").await;
        rig.link("salon", ANNA).await;
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_restart_demand_of_pairing_never_means_two_connections() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    assert_eq!(rig.sim.total_connections(), 2, "one to pair, one to stay");
    assert_eq!(rig.sim.open_connections(), 1);
    never_two_connections(&rig.sim);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_number_is_an_error_and_changes_nothing() {
    let mut rig = Rig::new().await;
    for number in [
        "",
        "   ",
        "123",
        "1111111111",
        "call me",
        "+1-800-123-4567 ext. 890",
    ] {
        let answer = rig.code("salon", number, None).await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (422, Some("INVALID_PHONE_FORMAT")),
            "{number}"
        );
    }
    let answer = rig
        .ask(
            "POST",
            "/api/v1/sessions/salon/pairing-code",
            Some(json!({})),
        )
        .await;
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (400, Some("BAD_MESSAGE"))
    );
    assert_eq!(rig.sim.total_connections(), 0);
    assert!(rig.stored("salon").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_requested_means_nothing_checked_and_nothing_wiped() {
    let mut rig = Rig::new().await;
    let code = code_of(&rig.code("salon", ANNA, None).await);
    assert!(!code.is_empty());
    let left = rig
        .stored("salon")
        .await
        .expect("an epoch that never linked");
    rig.start().await;
    assert_eq!(
        rig.ask("POST", "/api/v1/sessions/salon/reconnect", Some(json!({})))
            .await
            .status,
        202
    );
    rig.restart().await;
    let still = rig.stored("salon").await.expect("still there");
    assert_eq!(left.epoch, still.epoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_whose_stored_number_is_spoiled_starts_and_reconnects_without_being_judged() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let row = rig.stored("salon").await.expect("a link");
    rig.write_line(row.epoch, BORIS).await;
    rig.start().await;
    rig.state("salon", "CONNECTED").await;
    let mark = rig.sim.mark();
    rig.sim.kick(ANNA, &Kick::Cut);
    rig.sim
        .wait_for_after(mark, |event| event.is(Step::LoggedIn, ANNA))
        .await;
    rig.state("salon", "CONNECTED").await;
    rig.reads_what_the_phone_writes(ANNA).await;
    let kept = rig.stored("salon").await.expect("still there");
    assert_eq!((kept.epoch, kept.link_id), (row.epoch, row.link_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_stored_number_counts_as_leftovers() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let row = rig.stored("salon").await.expect("a link");
    rig.write_line(row.epoch, "not a number").await;
    rig.start().await;
    let answer = rig.code("salon", BORIS, None).await;
    let code = code_of(&answer);
    assert_eq!(
        answer.json()["replaced"]["reason"],
        "stale_credentials",
        "what cannot be read is no other line"
    );
    let journal = rig.audit().await;
    assert!(
        journal
            .iter()
            .any(|entry| entry["what"] == "leftovers_wiped")
            && journal
                .iter()
                .all(|entry| entry["what"] != "mismatch_wiped")
    );
    rig.sim
        .phone(BORIS)
        .enter_code(&code)
        .await
        .expect("linked");
    rig.state("salon", "CONNECTED").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unlinking_tells_whatsapp_and_wipes() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    assert_eq!(
        rig.ask("DELETE", "/api/v1/sessions/salon/link", None)
            .await
            .status,
        204
    );
    assert_eq!(rig.status("salon").await["state"], "UNLINKED");
    assert_eq!(rig.sim.phone(ANNA).devices().len(), 0);
    assert!(rig.stored("salon").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_devices_of_one_number_are_no_mismatch() {
    let mut rig = Rig::new().await;
    assert_eq!(
        rig.ask(
            "PUT",
            "/api/v1/sessions/second",
            Some(json!({ "name": "Second" }))
        )
        .await
        .status,
        201
    );
    rig.link("salon", ANNA).await;
    rig.link("second", ANNA).await;
    assert_eq!(rig.sim.phone(ANNA).devices().len(), 2);
    assert_eq!(rig.status("salon").await["state"], "CONNECTED");
    assert_eq!(
        rig.ask("DELETE", "/api/v1/sessions/second", None)
            .await
            .status,
        204
    );
    assert_eq!(
        rig.ask("GET", "/api/v1/sessions/second", None).await.status,
        404
    );
    assert_eq!(
        rig.ask("DELETE", "/api/v1/sessions/salon", None)
            .await
            .status,
        409
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_counts_what_went_out_and_is_kept_across_a_restart() {
    let mut rig = Rig::with(&[("pairing.requests_per_number", "2")]).await;
    for _ in 0..2 {
        let code = code_of(&rig.code("salon", ANNA, None).await);
        // A repeat of a live code is free.
        assert_eq!(code_of(&rig.code("salon", ANNA, None).await), code);
        rig.ask("DELETE", "/api/v1/sessions/salon/pairing-code", None)
            .await;
    }
    rig.restart().await;
    let answer = rig.code("salon", ANNA, None).await;
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (429, Some("RATE_LIMITED"))
    );
    let wait = answer.json()["retryAfter"].as_u64().expect("seconds");
    assert!((3000..=3600).contains(&wait), "{wait}");
    assert_eq!(rig.sim.hellos(ANNA), 2, "WhatsApp does not hear of it");
    code_of(&rig.code("salon", BORIS, None).await);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_is_the_lines_and_what_never_went_out_costs_nothing() {
    let mut rig = Rig::with(&[
        ("pairing.requests_per_number", "2"),
        ("whatsapp.connect_timeout", "2"),
    ])
    .await;
    rig.sim.stop().await;
    for _ in 0..3 {
        let answer = rig.code("salon", "+55 11 98765-4321", None).await;
        assert_eq!(answer.json()["code"], "WHATSAPP_UNREACHABLE");
    }
    rig.sim.resume().await;
    // Refused by WhatsApp or not, it went out; and in whatever spelling, it is the same line.
    rig.sim.fault(Fault::refuse_hello(500));
    for (number, status) in [
        ("+55 11 98765-4321", 502),
        ("+55 11 8765-4321", 200),
        ("+55 11 98765-4321", 200),
    ] {
        let answer = rig.code("salon", number, None).await;
        assert_eq!(answer.status, status, "{number}: a live code is free");
    }
    rig.ask("DELETE", "/api/v1/sessions/salon/pairing-code", None)
        .await;
    let answer = rig.code("salon", "+55 11 8765-4321", None).await;
    assert_eq!(answer.json()["code"], "RATE_LIMITED");
    rig.stop().await;
}

/// The names of the budget's rows in a stopped appliance's store.
async fn budget_rows(rig: &mut Rig) -> Vec<Vec<u8>> {
    use redb::{ReadableDatabase, ReadableTable};
    rig.stop().await;
    let database = redb::Database::open(rig.data().join("hairpin.redb")).expect("opened");
    let table = redb::TableDefinition::<&[u8], &[u8]>::new("budget");
    let read = database.begin_read().expect("begun");
    let table = read.open_table(table).expect("there");
    table
        .iter()
        .expect("read")
        .map(|row| row.expect("a row").0.value().to_vec())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_was_counted_is_a_keyed_hash_and_gone_once_its_hour_is_over() {
    const HOUR: i64 = 3_600_000;
    let mut rig = Rig::with(&[("pairing.requests_per_number", "5")]).await;
    code_of(&rig.code("salon", ANNA, None).await);
    let rows = budget_rows(&mut rig).await;
    assert_eq!(rows.len(), 1);
    let text = String::from_utf8_lossy(&rows[0]);
    assert!(!text.contains(&ANNA[1..]), "{text}");
    // The same number in another store has another name: whoever has all numbers finds none.
    let mut other = Rig::with(&[("pairing.requests_per_number", "5")]).await;
    code_of(&other.code("salon", ANNA, None).await);
    let others = budget_rows(&mut other).await;
    let hash = |row: &[u8]| row[..row.len() - 8].to_vec();
    assert_ne!(hash(&rows[0]), hash(&others[0]));

    let line = Phone::parse(ANNA, Country::parse("RU").expect("RU"))
        .expect("a number")
        .line_key();
    let line = line.reveal();
    let now = hairpin::clock::wall();
    let count = async |store: &Store, at| store.budget_record(line, at).await.expect("counted");
    // One that a clock set back has left in the future goes as well.
    rig.in_store(async |store| {
        count(store, now + 2 * HOUR).await;
        store.budget_forget(now).await.expect("forgotten");
    })
    .await;
    assert_eq!(budget_rows(&mut rig).await.len(), 0);
    rig.in_store(async |store| {
        count(store, now - HOUR - 1000).await;
        count(store, now - HOUR / 2).await;
        store.budget_forget(now - 2000).await.expect("nothing");
        assert!(store.budget_left(line, now, 1).expect("read").is_some());
        assert!(store.budget_left(line, now, 2).expect("read").is_none());
    })
    .await;
    assert_eq!(
        budget_rows(&mut rig).await.len(),
        2,
        "their hour is not over"
    );
    // Nobody asks again, and the one whose hour is over goes all the same; the other stays.
    let gone = async {
        while budget_rows(&mut rig).await.len() != 1 {
            rig.start().await;
            assert_eq!(rig.ask("GET", "/healthz", None).await.status, 200);
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("gone");
    rig.in_store(async |store| {
        assert!(store.budget_left(line, now, 1).expect("read").is_some());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_expires_by_our_own_clock_and_hides_before_it_dies() {
    let mut rig = Rig::with(&[("pairing.code_ttl", "32"), ("pairing.code_grace", "30")]).await;
    let mut page = rig.page("salon").await;
    let code = code_of(&rig.code("salon", ANNA, None).await);
    assert_eq!(
        page.next_of("pairing-code-ended").await["data"]["reason"],
        "expired"
    );
    assert_eq!(rig.status("salon").await["state"], "UNLINKED");
    // During the grace it is hidden, but still links.
    rig.sim
        .phone(ANNA)
        .enter_code(&code)
        .await
        .expect("linked in its grace");
    rig.state("salon", "CONNECTED").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_demand_ends_the_code_and_makes_no_new_one_by_itself() {
    let mut rig = Rig::new().await;
    let mut page = rig.page("salon").await;
    code_of(&rig.code("salon", ANNA, None).await);
    rig.sim.kick(
        ANNA,
        &hairpin_sim::Kick::RefreshCode {
            force_manual: false,
        },
    );
    assert_eq!(
        page.next_of("pairing-code-ended").await["data"]["reason"],
        "refresh"
    );
    rig.state("salon", "UNLINKED").await;
    assert_eq!(rig.sim.hellos(ANNA), 1);
    rig.link("salon", ANNA).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passkey_demand_is_told_as_one() {
    let mut rig = Rig::new().await;
    code_of(&rig.code("salon", ANNA, None).await);
    rig.sim.kick(ANNA, &Kick::Passkey);
    let status = rig.state("salon", "PASSKEY_REQUIRED").await;
    assert_eq!(status["reason"], "PASSKEY_REQUIRED");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_the_phone_tried_too_often_is_over() {
    // A phone more patient than WhatsApp's own: the appliance counts for itself.
    let sim = Sim::start_with(SimConfig {
        tries_per_code: 9,
        ..SimConfig::default()
    })
    .await;
    let mut rig = Rig::with_sim(sim, &[]).await;
    let mut page = rig.page("salon").await;
    let code = code_of(&rig.code("salon", ANNA, None).await);
    let phone = rig.sim.phone(ANNA);
    for _ in 0..3 {
        assert!(phone.enter_code("ABCD2345").await.is_err());
    }
    assert_eq!(rig.status("salon").await["state"], "LINKING");
    assert!(phone.enter_code("ABCD2345").await.is_err());
    let ended = page.next_of("pairing-code-ended").await;
    assert_eq!(ended["data"]["reason"], "attempts");
    rig.state("salon", "UNLINKED").await;
    assert!(phone.enter_code(&code).await.is_err());
    assert_eq!(rig.sim.hellos(ANNA), 1, "no code by itself");
    rig.link("salon", ANNA).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_takes_a_second_when_the_network_answers_and_no_more_than_twelve_when_it_is_silent()
 {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    rig.stop().await;
    // A busy machine may take longer now and then, but not each time.
    let mut took = Vec::new();
    while took
        .last()
        .is_none_or(|took| *took >= Duration::from_secs(1))
    {
        assert!(took.len() < 5, "{took:?}");
        rig.start().await;
        rig.state("salon", "CONNECTED").await;
        let started = Instant::now();
        rig.stop().await;
        took.push(started.elapsed());
    }

    rig.start().await;
    rig.state("salon", "CONNECTED").await;
    fall_silent(&rig.sim).await;
    let started = Instant::now();
    rig.stop().await;
    assert!(
        started.elapsed() < Duration::from_secs(12),
        "{:?}",
        started.elapsed()
    );

    // In the middle of giving up the link, which WhatsApp does not confirm.
    rig.start().await;
    rig.state("salon", "CONNECTED").await;
    fall_silent(&rig.sim).await;
    let leaving = rig.ask("DELETE", "/api/v1/sessions/salon/link", None);
    tokio::time::timeout(Duration::from_millis(300), leaving)
        .await
        .expect_err("no answer yet");
    let started = Instant::now();
    rig.stop().await;
    assert!(
        started.elapsed() < Duration::from_secs(12),
        "{:?}",
        started.elapsed()
    );
    rig.start().await;
    // Whole or gone, never half: either it was unlinked, or it is linked as before.
    let state = rig.status("salon").await["state"]
        .as_str()
        .expect("a state")
        .to_owned();
    if state == "UNLINKED" {
        rig.link("salon", ANNA).await;
    } else {
        rig.state("salon", "CONNECTED").await;
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_is_quick_and_tells_the_pages() {
    let mut rig = Rig::new().await;
    rig.link("salon", ANNA).await;
    let mut page = rig.page("salon").await;
    page.next().await;
    let started = Instant::now();
    let (closed, ()) = tokio::join!(page.closed(), rig.stop());
    assert_eq!(closed, 1001);
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    rig.sim.stop().await;
}
