use serde_json::Value;

use super::*;
use crate::secret::SecretText;
use crate::session::{Qr, Status};

fn a_code(text: &str, seconds: u64) -> PairingCode {
    PairingCode {
        code: SecretText::new(text.into()),
        phone_number: "79001***567".into(),
        expires_at: 0,
        deadline: Instant::now() + Duration::from_millis(seconds * 1000 + 500),
        stopped: None,
        replaced: None,
    }
}

fn a_view(state: State, code: Option<PairingCode>) -> View {
    View {
        status: Status {
            session: "salon".into(),
            state,
            name: "Salon".into(),
            phone: None,
            since: 0,
            last_connected: None,
            until: None,
            reason: None,
        },
        code,
        qr: None,
    }
}

fn page() -> Page {
    Page::new("salon".into(), Lang::En)
}

/// Each frame in a word: its event, what matters in it, and its id.
fn told(frames: &[Text]) -> Vec<String> {
    let word = |frame: &Text| {
        let value: Value = serde_json::from_str(frame).expect("JSON");
        let data = &value["data"];
        let detail = [&data["code"], &data["reason"]]
            .into_iter()
            .find_map(Value::as_str)
            .unwrap_or_default();
        let id = value["id"]
            .as_str()
            .map_or(String::new(), |id| format!("#{id}"));
        let event = value["event"].as_str().expect("an event");
        format!("{event} {detail}{id}").trim().to_owned()
    };
    frames.iter().map(word).collect()
}

fn after(page: &mut Page, event: SessionEvent) -> Vec<String> {
    match page.event(event) {
        Step::Send(frames) => told(&frames),
        Step::Gone => vec!["gone".into()],
    }
}

#[tokio::test]
async fn a_new_page_sees_what_is_live() {
    let frames = page().snapshot(&a_view(State::Unlinked, None));
    assert_eq!(told(&frames), ["session-status"]);
    let mut view = a_view(State::AwaitingCodeEntry, Some(a_code("AAAA-AAAA", 100)));
    view.qr = Some(Qr {
        value: SecretText::new("2@x".into()),
        deadline: Instant::now(),
    });
    let frames = page().snapshot(&view);
    assert_eq!(
        told(&frames),
        ["session-status", "pairing-code AAAA-AAAA", "qr"]
    );
}

#[tokio::test]
async fn a_code_without_a_second_left_is_not_shown_to_a_new_page() {
    let view = a_view(State::AwaitingCodeEntry, Some(a_code("AAAA-AAAA", 0)));
    assert_eq!(told(&page().snapshot(&view)), ["session-status"]);
}

#[tokio::test]
async fn whoever_asked_sees_the_code_once_with_the_id() {
    let mut page = page();
    let code = a_code("AAAA-AAAA", 100);
    page.asked();
    assert!(after(&mut page, SessionEvent::Code(code.clone())).is_empty());
    assert!(page.held_until().is_some());
    let frames = page.answered(Ok(code.clone()), Some(&code), Some("7"));
    assert_eq!(told(&frames), ["pairing-code AAAA-AAAA#7"]);
    assert!(page.held_until().is_none());
}

#[tokio::test]
async fn the_news_after_the_answer_is_not_repeated() {
    let mut page = page();
    let code = a_code("AAAA-AAAA", 100);
    page.asked();
    page.answered(Ok(code.clone()), Some(&code), Some("7"));
    assert!(after(&mut page, SessionEvent::Code(code)).is_empty());
}

#[tokio::test]
async fn asking_again_for_a_live_code_is_answered_again() {
    let mut page = page();
    let code = a_code("AAAA-AAAA", 100);
    page.snapshot(&a_view(State::AwaitingCodeEntry, Some(code.clone())));
    page.asked();
    let frames = page.answered(Ok(code.clone()), Some(&code), None);
    assert_eq!(told(&frames), ["pairing-code AAAA-AAAA"]);
}

#[tokio::test]
async fn somebody_elses_code_is_shown_once_the_own_request_is_refused() {
    let mut page = page();
    page.asked();
    after(&mut page, SessionEvent::Code(a_code("BBBB-BBBB", 100)));
    let frames = page.answered(Err(Code::Superseded.into()), None, Some("7"));
    let expected = ["pairing-code-error SUPERSEDED#7", "pairing-code BBBB-BBBB"];
    assert_eq!(told(&frames), expected);
}

#[tokio::test]
async fn a_code_that_ended_before_its_answer_went_out_is_never_shown() {
    let mut page = page();
    let code = a_code("AAAA-AAAA", 100);
    page.asked();
    after(&mut page, SessionEvent::Code(code.clone()));
    let ended = after(&mut page, SessionEvent::CodeEnded(EndReason::Cancelled));
    assert_eq!(ended, ["pairing-code-ended cancelled"]);
    let frames = page.answered(Ok(code.clone()), None, Some("7"));
    assert_eq!(told(&frames), ["pairing-code-error CANCELLED#7"]);
    page.asked();
    let frames = page.answered(Ok(code), Some(&a_code("BBBB-BBBB", 100)), Some("8"));
    assert_eq!(told(&frames), ["pairing-code-error SUPERSEDED#8"]);
}

#[tokio::test]
async fn after_missed_events_the_page_learns_that_its_code_is_gone() {
    for (view, expected) in [
        (
            a_view(State::Connected, None),
            vec!["session-status", "pairing-code-ended linked"],
        ),
        (
            a_view(State::Unlinked, None),
            vec!["session-status", "pairing-code-ended cancelled"],
        ),
        (
            a_view(State::AwaitingCodeEntry, Some(a_code("BBBB-BBBB", 100))),
            vec![
                "session-status",
                "pairing-code-ended superseded",
                "pairing-code BBBB-BBBB",
            ],
        ),
        (
            a_view(State::AwaitingCodeEntry, Some(a_code("AAAA-AAAA", 100))),
            vec!["session-status", "pairing-code AAAA-AAAA"],
        ),
    ] {
        let mut page = page();
        page.snapshot(&a_view(
            State::AwaitingCodeEntry,
            Some(a_code("AAAA-AAAA", 100)),
        ));
        assert_eq!(told(&page.snapshot(&view)), expected);
    }
}

#[tokio::test]
async fn a_removed_session_ends_the_page() {
    assert_eq!(after(&mut page(), SessionEvent::Removed), ["gone"]);
}
