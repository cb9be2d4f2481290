//! `hairpin link` as a process: the number, the question, the code, every way it ends, and what it never lets slip.

use std::path::Path;
use std::process::Stdio;

use hairpin_sim::{Fault, Kick, Sim};
use rustix::process::Signal;
use serde_json::json;

use crate::process::Serve;
use crate::rig::{ANNA, BORIS, Rig, code_of};
use crate::terminal::{Said, Terminal, code_in, hairpin, run};

/// Starts `link`, and writes the number to its standard input.
fn link(data: &Path, number: &str, more: &[&str]) -> Terminal {
    let mut terminal = Terminal::start(data, &[&["link"], more].concat());
    terminal.write(number);
    terminal.write("\n");
    terminal
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_from_standard_input_becomes_a_link_and_shows_nowhere_else() {
    let sim = Sim::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join(".local/share/hairpin");
    let serve = Serve::start(
        folder.path(),
        &sim.url(),
        &[("RUST_LOG", "trace"), ("HAIRPIN_LOG", "trace")],
    );
    let mut shown = Vec::new();
    for (typed, number, masked, more) in [
        ("8 (900) 123-45-67", ANNA, "79001***567", &["-"][..]),
        ("+7 900 765-43-21", BORIS, "79007***321", &["--replace"]),
    ] {
        let mut terminal = link(&data, typed, more);
        let code = terminal.code().await;
        shown.push(terminal.command_line());
        sim.phone(number).enter_code(&code).await.expect("linked");
        let said = terminal.ended().await;
        let lines: Vec<&str> = said.answer().lines().collect();
        assert_eq!(
            lines.last(),
            Some(&format!("{masked} is linked.").as_str()),
            "{lines:?}"
        );
        let counted = lines
            .iter()
            .find_map(|line| line.strip_prefix(&code)?.trim().strip_suffix(" s left"))
            .and_then(|left| left.parse().ok());
        assert!(
            counted.is_some_and(|left| (150..=170).contains(&left)),
            "{lines:?}"
        );
        assert!(!said.out.contains(number), "masked even here: {lines:?}");
        let status = run(&data, &["status"]);
        assert!(
            status.answer().contains(&format!("CONNECTED  {masked}")),
            "{status:?}"
        );
        shown.push(status.out);
        shown.push(format!("{code} {}", code.replace('-', "")));
    }
    let codes: Vec<String> = [2, 5].map(|at: usize| shown[at].clone()).into();
    let log = std::fs::read_to_string(folder.path().join("log")).expect("a log");
    let audit = run(&data, &["audit"]);
    assert!(
        audit.answer().contains("by terminal (hairpin "),
        "{audit:?}"
    );
    let seen = [&shown[0], &shown[1], &shown[3], &shown[4], &log, &audit.out];
    assert!(log.contains("79001***567"), "the run is in the log");
    for secret in codes.iter().flat_map(|pair| pair.split(' ')).chain([
        ANNA,
        BORIS,
        "9001234567",
        "900 123",
        "765-43-21",
        &serve.key,
    ]) {
        for text in seen {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    serve.signal(Signal::TERM);
    assert_eq!(serve.ended(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_terminal_the_number_is_asked_for_and_one_line_counts_down() {
    let mut rig = Rig::new().await;
    let mut terminal = Terminal::at_tty(&rig.data(), &["link"]);
    terminal.says("Phone number: ").await;
    assert!(!terminal.command_line().contains(ANNA));
    terminal.write("89001234567\n");
    let code = terminal.code().await;
    let line = format!("\r\u{1b}[2K{code}   2:4");
    let out = terminal.says_twice(&line).await;
    let counted = &out[out.find('\u{1b}').expect("a kept line")..];
    assert!(!counted.contains('\n'), "{out:?}");
    rig.sim.phone(ANNA).enter_code(&code).await.expect("linked");
    let said = terminal.ended().await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.ends_with("79001***567 is linked.\r\n"), "{said:?}");
    rig.state("salon", "CONNECTED").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_number_is_wrong_use() {
    let mut rig = Rig::new().await;
    let data = rig.data();
    for (args, input, word) in [
        (&["link", "123"][..], "", "too short"),
        (&["link"], "", "Type a phone number"),
        (&["link"], "\n", "Type a phone number"),
        (&["link", "-"], "+7 900 123-45-67 ext. 8\n", "xtension"),
        (&["link", "--country", "XX", "89001234567"], "", "country"),
        (&["link", "--country", "GB", "89001234567"], "", "number"),
    ] {
        let mut terminal = Terminal::start(&data, args);
        terminal.write(input);
        terminal.close();
        let said = terminal.ended().await;
        assert!(said.complaint(2).contains(word), "{args:?}: {said:?}");
    }
    for args in [&["link", "--session"][..], &["link", ANNA, BORIS]] {
        assert_eq!(run(&data, args).code, Some(2));
    }
    assert_eq!(rig.audit().await, [] as [serde_json::Value; 0]);
    let mut british = Terminal::start(&data, &["link", "--country", "gb"]);
    british.write("07400 123456\n");
    british.code().await;
    british.signal(Signal::INT);
    british.ended().await.complaint(1);
    assert_eq!(rig.sim.hellos("447400123456"), 1);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_link_goes_only_when_it_was_agreed_to() {
    let mut rig = Rig::new().await;
    let data = rig.data();
    rig.link("salon", ANNA).await;
    let device = rig.sim.phone(ANNA).devices()[0].id;

    // Nobody to ask: refused, with the mend.
    let said = link(&data, BORIS, &[]).ended().await;
    let line = said.complaint(1);
    assert!(
        line.contains("79001***567") && line.contains("79007***321") && line.contains("--replace"),
        "{line}"
    );
    let said = link(&data, ANNA, &[]).ended().await;
    assert!(said.complaint(1).contains("linked already"), "{said:?}");

    // Somebody to ask: the default is no.
    for answer in ["\n", "n\n", "what\n", "\u{4}", "\u{3}"] {
        let mut terminal = Terminal::at_tty(&data, &["link", ANNA, "--session", "salon"]);
        let said = {
            terminal
                .until("an end", |out| out.contains("hairpin: "))
                .await;
            terminal.ended().await
        };
        assert_eq!(said.code, Some(1), "the same number is not asked about");
        let mut terminal = Terminal::at_tty(&data, &["link", "+79007654321"]);
        terminal
            .says("79001***567 is linked. Replace the link of 79001***567 by one of 79007***321? [y/N] ")
            .await;
        terminal.write(answer);
        let said = terminal.ended().await;
        assert_eq!(said.code, Some(1), "{answer:?}: {said:?}");
        assert!(
            said.out.contains("nothing was changed"),
            "{answer:?}: {said:?}"
        );
    }
    assert_eq!(rig.sim.phone(ANNA).devices()[0].id, device);
    assert_eq!(rig.sim.hellos(BORIS), 0);
    assert_eq!(rig.status("salon").await["state"], "CONNECTED");

    let mut terminal = Terminal::at_tty(&data, &["link", "+79007654321"]);
    terminal.says("[y/N] ").await;
    terminal.write("y\n");
    let code = terminal.code().await;
    assert!(
        terminal
            .out()
            .contains("The old link of 79001***567 is wiped."),
        "{}",
        terminal.out()
    );
    rig.sim
        .phone(BORIS)
        .enter_code(&code)
        .await
        .expect("linked");
    assert_eq!(terminal.ended().await.code, Some(0));
    assert_eq!(rig.sim.phone(ANNA).devices(), []);
    let wiped = rig
        .audit()
        .await
        .into_iter()
        .find(|entry| entry["what"] == "mismatch_wiped")
        .expect("an entry");
    assert_eq!(
        (&wiped["confirmed"], &wiped["by"]),
        (&json!(true), &json!("terminal"))
    );

    // The same number anew, agreed to beforehand.
    let mut terminal = link(&data, BORIS, &["--replace"]);
    let code = terminal.code().await;
    rig.sim
        .phone(BORIS)
        .enter_code(&code)
        .await
        .expect("linked");
    terminal.ended().await.answer();
    assert_eq!(rig.sim.phone(BORIS).devices().len(), 1);
    rig.state("salon", "CONNECTED").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_link_stays_when_whatsapp_does_not_answer() {
    let mut rig = Rig::with(&[("whatsapp.connect_timeout", "1")]).await;
    rig.link("salon", ANNA).await;
    rig.sim.stop().await;
    let said = link(&rig.data(), BORIS, &["--replace"]).ended().await;
    assert!(said.complaint(1).contains("WhatsApp"), "{said:?}");
    assert_eq!(said.out, "");
    rig.sim.resume().await;
    rig.state("salon", "CONNECTED").await;
    assert_eq!(rig.status("salon").await["phone"], "79001***567");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_the_code_for_everybody() {
    let mut rig = Rig::new().await;
    let data = rig.data();
    let mut page = rig.page("salon").await;
    for signal in [Signal::INT, Signal::TERM] {
        let mut terminal = link(&data, ANNA, &[]);
        let code = terminal.code().await;
        terminal.signal(signal);
        let said = terminal.ended().await;
        assert!(said.complaint(1).contains("cancelled"), "{said:?}");
        assert_eq!(
            page.next_of("pairing-code-ended").await["data"]["reason"],
            "cancelled"
        );
        rig.state("salon", "UNLINKED").await;
        assert!(rig.sim.phone(ANNA).enter_code(&code).await.is_err());
    }
    let mut terminal = Terminal::at_tty(&data, &["link"]);
    terminal.says("number: ").await;
    terminal.write("89001234567\n");
    terminal.code().await;
    terminal.write("\u{3}");
    let said = terminal.ended().await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.out
            .ends_with("\r\nhairpin: the code was cancelled; nothing was linked\r\n"),
        "on a line of its own: {said:?}"
    );
    rig.state("salon", "UNLINKED").await;

    // Before there is a code.
    rig.sim.fault(Fault::silence(hairpin_sim::Step::Hello));
    let mut terminal = link(&data, ANNA, &[]);
    terminal.says("Asking WhatsApp").await;
    terminal.signal(Signal::INT);
    let said = terminal.ended().await;
    assert!(said.complaint(1).contains("cancelled"), "{said:?}");
    rig.state("salon", "UNLINKED").await;
    rig.sim.clear_faults();
    rig.link("salon", ANNA).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_has_taken_the_code_is_not_disturbed_by_ctrl_c() {
    let mut rig = Rig::new().await;
    let data = rig.data();
    let mut terminal = link(&data, ANNA, &[]);
    let mut second = link(&data, ANNA, &[]);
    let code = terminal.code().await;
    assert_eq!(second.code().await, code);
    // A wrong code first: it is taken, but does not fit; the right one still does.
    assert!(rig.sim.phone(ANNA).enter_code("ABCD-2345").await.is_err());
    terminal.says("The phone has taken the code; linking").await;
    second.says("The phone has taken the code; linking").await;
    terminal.signal(Signal::INT);
    let said = terminal.ended().await;
    assert!(
        said.complaint(1).contains("the linking goes on"),
        "{said:?}"
    );
    assert_eq!(rig.status("salon").await["state"], "LINKING");
    let mut late = link(&data, ANNA, &[]);
    late.says("has taken the code already").await;
    let said = link(&data, BORIS, &[]).ended().await;
    assert!(said.complaint(1).contains("goes on"), "{said:?}");
    rig.sim.phone(ANNA).enter_code(&code).await.expect("linked");
    second.ended().await.answer();
    let said = late.ended().await;
    assert!(said.answer().ends_with("is linked.\n"), "{said:?}");
    assert_eq!(code_in(&said.out), None, "nobody types it now: {said:?}");
    rig.state("salon", "CONNECTED").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_terminals_a_page_and_a_script_at_once_get_one_code() {
    let mut rig = Rig::new().await;
    let data = rig.data();
    let mut page = rig.page("salon").await;
    let mut one = link(&data, "89001234567", &[]);
    let mut two = link(&data, "+7 900 123 45 67", &[]);
    page.send(json!({ "event": "request-pairing-code", "data": { "phoneNumber": ANNA } }))
        .await;
    let script = code_of(&rig.code("salon", ANNA, None).await);
    let shown = page.next_of("pairing-code").await["data"]["code"].clone();
    assert_eq!(one.code().await, script);
    assert_eq!(two.code().await, script);
    assert_eq!(shown, script.as_str());
    assert_eq!(rig.sim.hellos(ANNA), 1);
    // A terminal that is torn away ends nobody's code.
    one.signal(Signal::KILL);
    assert_eq!(one.ended().await.code, None);
    rig.sim
        .phone(ANNA)
        .enter_code(&script)
        .await
        .expect("linked");
    let said = two.ended().await;
    assert!(said.answer().ends_with("is linked.\n"), "{said:?}");
    assert_eq!(rig.sim.phone(ANNA).devices().len(), 1);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_end_of_a_code_is_told_in_one_line() {
    let mut rig = Rig::new().await;
    let data = rig.data();

    let mut terminal = link(&data, ANNA, &[]);
    terminal.code().await;
    rig.ask("DELETE", "/api/v1/sessions/salon/pairing-code", None)
        .await;
    let said = terminal.ended().await;
    assert!(said.complaint(1).contains("cancelled"), "{said:?}");

    let mut terminal = link(&data, ANNA, &[]);
    let old = terminal.code().await;
    let mut newer = link(&data, BORIS, &[]);
    let said = terminal.ended().await;
    assert!(said.complaint(1).contains("another number"), "{said:?}");
    assert_ne!(newer.code().await, old);
    rig.sim.kick(
        BORIS,
        &Kick::RefreshCode {
            force_manual: false,
        },
    );
    let said = newer.ended().await;
    assert!(said.complaint(1).contains("took the code back"), "{said:?}");

    let mut terminal = link(&data, ANNA, &[]);
    terminal.code().await;
    rig.sim.kick(ANNA, &Kick::Passkey);
    let said = terminal.ended().await;
    assert!(said.complaint(1).contains("passkey"), "{said:?}");

    for (fault, word) in [
        (Fault::refuse_hello(429).backoff(30), "30 s"),
        (Fault::refuse_hello(403), "WhatsApp refused"),
        (Fault::refuse_hello(452), "The page shows it"),
    ] {
        rig.sim.fault(fault);
        let said = link(&data, ANNA, &[]).ended().await;
        assert!(said.complaint(1).contains(word), "{said:?}");
        assert_eq!(code_in(&said.out), None, "{said:?}");
    }
    // The last of these leaves the picture on the page.
    rig.state("salon", "AWAITING_SCAN").await;
    rig.ask("DELETE", "/api/v1/sessions/salon/pairing-code", None)
        .await;

    let said = link(&data, ANNA, &["--session", "nowhere"]).ended().await;
    assert!(said.complaint(1).contains("nowhere"), "{said:?}");

    rig.ask(
        "PUT",
        "/api/v1/sessions/second",
        Some(json!({ "name": "Second" })),
    )
    .await;
    let mut terminal = link(&data, ANNA, &["--session", "second"]);
    terminal.code().await;
    rig.ask("DELETE", "/api/v1/sessions/second", None).await;
    let said = terminal.ended().await;
    assert_eq!(said.complaint(1).lines().count(), 1);

    let mut terminal = link(&data, ANNA, &[]);
    terminal.code().await;
    rig.stop().await;
    let said = terminal.ended().await;
    assert!(said.complaint(1).contains("stopping"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_phone_is_told_to_whoever_asked() {
    let mut rig = Rig::new().await;
    // The person scans the picture with another phone than the one that was named.
    let mut page = rig.page("salon").await;
    let mut terminal = link(&rig.data(), ANNA, &[]);
    terminal.code().await;
    let qr = loop {
        let value = page.next_of("qr").await["data"]["value"].clone();
        if let Some(value) = value.as_str() {
            break value.to_owned();
        }
    };
    rig.sim.phone(BORIS).scan_qr(&qr).await.expect("linked");
    let said = terminal.ended().await;
    assert!(
        said.complaint(1)
            .contains("Another number than the one asked for"),
        "{said:?}"
    );
    rig.state("salon", "UNLINKED").await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_ran_out_still_links_in_its_grace_and_ends_after_it() {
    let mut rig = Rig::with(&[("pairing.code_ttl", "34"), ("pairing.code_grace", "30")]).await;
    let mut terminal = link(&rig.data(), ANNA, &[]);
    let code = terminal.code().await;
    rig.state("salon", "UNLINKED").await;
    rig.sim.phone(ANNA).enter_code(&code).await.expect("linked");
    let said = terminal.ended().await;
    assert!(said.answer().ends_with("is linked.\n"), "{said:?}");
    rig.stop().await;

    let mut rig = Rig::with(&[("pairing.code_ttl", "4"), ("pairing.code_grace", "1")]).await;
    let mut terminal = link(&rig.data(), ANNA, &[]);
    terminal.code().await;
    let said = terminal.ended().await;
    assert!(said.complaint(1).contains("no phone typed"), "{said:?}");
    assert!(
        said.out
            .ends_with("Its time is over; a phone that was quick enough still links.\n"),
        "{said:?}"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_appliance_that_dies_leaves_no_terminal_waiting() {
    let sim = Sim::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join(".local/share/hairpin");
    let serve = Serve::start(folder.path(), &sim.url(), &[]);
    let mut terminal = link(&data, ANNA, &[]);
    terminal.code().await;
    serve.kill();
    let said = terminal.ended().await;
    assert!(said.complaint(1).contains("stopped"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_is_told_with_the_time_it_takes() {
    let mut rig = Rig::with(&[("pairing.requests_per_number", "1")]).await;
    let data = rig.data();
    let mut first = link(&data, ANNA, &[]);
    first.code().await;
    first.signal(Signal::INT);
    first.ended().await.complaint(1);
    let said = link(&data, ANNA, &[]).ended().await;
    let line = said.complaint(1);
    assert!(line.contains("59 min") || line.contains("1 h"), "{line}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_leaves_does_not_end_the_linking() {
    let mut rig = Rig::new().await;
    let (read, write) = std::io::pipe().expect("a pipe");
    drop(read);
    let mut command = hairpin(&rig.data(), &["link", "+79001234567"]);
    let child = command
        .stdout(write)
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    rig.state("salon", "AWAITING_CODE_ENTRY").await;
    let code = code_of(&rig.code("salon", ANNA, None).await);
    rig.sim.phone(ANNA).enter_code(&code).await.expect("linked");
    let said: Said = child.wait_with_output().expect("ended").into();
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    rig.stop().await;
}
