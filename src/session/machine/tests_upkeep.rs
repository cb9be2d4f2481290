//! How a link is kept up: the whole schedule of waits, and what clocks, suspends and failing stores do to it.

use super::tests::{A, B, Play, row};
use super::*;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// Lets a connection that is being started fail at once; how long the machine waits then.
fn fail(play: &mut Play) -> Duration {
    let ticket = play.ticket();
    play.feed(Input::Started(ticket, true));
    play.feed(Input::Link(LinkEvent::Closed(Close::Lost)));
    waiting(play)
}

fn waiting(play: &Play) -> Duration {
    assert_eq!(play.machine.state(), State::Reconnecting);
    play.machine.deadline().expect("a wait") - play.now.mono
}

fn connect(play: &mut Play) {
    let ticket = play.ticket();
    play.feed(Input::Started(ticket, true));
    play.feed(Input::Link(LinkEvent::Connected));
    assert_eq!(play.machine.state(), State::Connected);
}

#[test]
fn through_an_outage_of_hours_a_link_is_tried_for_ever_at_most_every_twenty_seconds() {
    for jitter in [0.0, 0.5, 1.0] {
        let mut play = Play::linked(A);
        play.machine.set_jitter(jitter);
        play.wait(HOUR);
        play.feed(Input::Link(LinkEvent::Closed(Close::Lost)));
        let mut waits = vec![waiting(&play)];
        let began = play.now.mono;
        while play.now.mono - began < HOUR * 6 {
            let wait = *waits.last().expect("one");
            play.wait(wait);
            assert_eq!(play.reconnects(), [Why::Lost]);
            waits.push(fail(&mut play));
        }
        assert!(waits.len() > 1000, "for ever: {}", waits.len());
        assert!(waits[0] <= Duration::from_secs(1), "{waits:?}");
        assert!(
            waits.windows(2).all(|pair| pair[0] <= pair[1]),
            "never shorter than before"
        );
        for wait in &waits[5..] {
            assert!(
                (Duration::from_secs(10)..=Duration::from_secs(20)).contains(wait),
                "{wait:?} with {jitter}"
            );
        }
        play.wait(*waits.last().expect("one"));
        connect(&mut play);
    }
}

#[test]
fn the_longest_wait_differs_from_session_to_session() {
    let waits = [0.0, 0.25, 0.5, 0.75, 1.0].map(|jitter| {
        let mut play = Play::linked(A);
        play.machine.set_jitter(jitter);
        play.feed(Input::Link(LinkEvent::Closed(Close::Lost)));
        for _ in 0..10 {
            let wait = waiting(&play);
            play.wait(wait);
            fail(&mut play);
        }
        waiting(&play)
    });
    assert!(waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
}

#[test]
fn an_attempt_that_hung_has_waited_already() {
    let mut play = Play::linked(A);
    play.wait(HOUR);
    play.feed(Input::Link(LinkEvent::Closed(Close::Lost)));
    for _ in 0..10 {
        let wait = waiting(&play);
        play.wait(wait);
        let ticket = play.ticket();
        play.feed(Input::Started(ticket, true));
        // A network that swallows everything: the connection is given up after twenty seconds.
        play.wait(Duration::from_secs(20));
        play.feed(Input::Link(LinkEvent::Closed(Close::Lost)));
        assert!(waiting(&play) <= Duration::from_secs(1));
    }
}

#[test]
fn a_connection_that_falls_at_once_is_not_tried_once_a_second_for_ever() {
    let mut play = Play::linked(A);
    let mut waits = Vec::new();
    for _ in 0..8 {
        play.wait(Duration::from_secs(3));
        play.feed(Input::Link(LinkEvent::Closed(Close::Lost)));
        waits.push(waiting(&play));
        let wait = waiting(&play);
        play.wait(wait);
        connect(&mut play);
    }
    assert!(waits[7] >= Duration::from_secs(10), "{waits:?}");
    play.wait(STABLE);
    play.feed(Input::Link(LinkEvent::Closed(Close::Lost)));
    assert!(
        waiting(&play) <= Duration::from_secs(1),
        "one that stood is forgiven"
    );
}

#[test]
fn restart_demands_in_a_row_are_not_answered_at_once_for_ever() {
    let mut play = Play::linked(A);
    play.wait(HOUR);
    play.feed(Input::Link(LinkEvent::Closed(Close::Restart)));
    assert_eq!(play.reconnects(), [Why::Restart]);
    let ticket = play.ticket();
    play.feed(Input::Started(ticket, true));
    play.feed(Input::Link(LinkEvent::Closed(Close::Restart)));
    assert_eq!(play.reconnects(), []);
    assert!(waiting(&play) >= Duration::from_secs(1));
}

#[test]
fn too_fast_waits_longer_each_time_whatever_was_lost_before() {
    let mut play = Play::linked(A);
    play.machine.set_jitter(1.0);
    for _ in 0..6 {
        play.feed(Input::Link(LinkEvent::Closed(Close::Lost)));
        let wait = waiting(&play);
        play.wait(wait);
        let ticket = play.ticket();
        play.feed(Input::Started(ticket, true));
    }
    let mut waits = Vec::new();
    for _ in 0..7 {
        play.feed(Input::Link(LinkEvent::Closed(Close::TooFast)));
        let wait = waiting(&play);
        waits.push(wait.as_secs() / 60);
        assert_eq!(
            play.machine.until(),
            Some(play.now.wall + i64::try_from(wait.as_millis()).expect("short"))
        );
        play.wait(wait);
        assert_eq!(play.reconnects(), [Why::TooFast]);
        let ticket = play.ticket();
        play.feed(Input::Started(ticket, true));
    }
    assert_eq!(waits, [1, 2, 4, 8, 15, 15, 15]);
    // The button does not wait.
    play.feed(Input::Link(LinkEvent::Closed(Close::TooFast)));
    play.feed(Input::Reconnect(1));
    assert_eq!(play.reconnects(), [Why::Asked]);
}

#[test]
fn a_client_too_old_looks_for_a_newer_version_once_before_it_rests() {
    let mut play = Play::linked(A);
    play.feed(Input::Link(LinkEvent::Closed(Close::Outdated)));
    assert!(play.wants(|effect| matches!(effect, Effect::Job(_, Job::Renew))));
    let ticket = play.ticket();
    play.feed(Input::Renewed(ticket, true));
    assert_eq!(play.reconnects(), [Why::Update]);
    let ticket = play.ticket();
    play.feed(Input::Started(ticket, true));
    play.feed(Input::Link(LinkEvent::Closed(Close::Outdated)));
    let ticket = play.ticket();
    play.feed(Input::Renewed(ticket, false));
    assert_eq!(play.machine.state(), State::Outdated);
    assert!(play.wants(|effect| matches!(
        effect,
        Effect::Halt(Some(Halted {
            reason: HaltedReason::Outdated,
            ..
        }))
    )));
    // When one turns up by itself, it goes on by itself.
    play.feed(Input::NewVersion);
    assert_eq!(play.reconnects(), [Why::Update]);
}

#[test]
fn a_request_of_a_client_too_old_goes_on_with_a_newer_version() {
    for newer in [true, false] {
        let mut play = Play::new();
        let waiter = play.ask(A, None);
        play.until_prepared(A);
        play.feed(Input::Link(LinkEvent::Closed(Close::Outdated)));
        let ticket = play.ticket();
        play.feed(Input::Renewed(ticket, newer));
        if newer {
            assert!(play.wants(|effect| matches!(effect, Effect::Job(_, Job::Start))));
            let ticket = play.ticket();
            play.feed(Input::Started(ticket, true));
            play.feed(Input::Link(LinkEvent::Opened));
            assert!(play.wants(|effect| matches!(effect, Effect::RequestCode(_))));
        } else {
            assert_eq!(play.refusal(waiter), Some(Code::ClientOutdated));
            assert_eq!(play.machine.state(), State::Outdated);
        }
    }
}

#[test]
fn what_a_halted_link_does_when_the_program_starts_anew() {
    let halted = |reason, until| {
        let mut row = row(A, true);
        row.halted = Some(Halted {
            at: 1_000_000,
            reason,
            until,
        });
        let mut play = Play::new();
        play.feed(Input::Boot(Ok(Some(row))));
        play
    };
    for (reason, state) in [
        (HaltedReason::Replaced, State::Replaced),
        (HaltedReason::Locked, State::Locked),
    ] {
        let play = halted(reason, None);
        assert_eq!(play.machine.state(), state, "it stays so");
        assert!(play.fx.is_empty() && play.machine.deadline().is_none());
    }
    for reason in [HaltedReason::Outdated, HaltedReason::Failed] {
        let play = halted(reason, None);
        assert!(
            play.wants(|effect| matches!(effect, Effect::Job(_, Job::Start))),
            "{reason:?}: whoever updated the program expects a try"
        );
    }
    let play = halted(HaltedReason::Banned, Some(1_000_000 + 60_000));
    assert_eq!(play.machine.state(), State::Banned);
    assert_eq!(
        play.machine.deadline().expect("an end") - play.now.mono,
        Duration::from_mins(1)
    );
    // Over while the program was not running.
    let mut play = halted(HaltedReason::Banned, Some(999_999));
    play.feed(Input::Timer);
    assert!(play.wants(|effect| matches!(effect, Effect::Job(_, Job::Start))));
}

#[test]
fn a_ban_is_never_longer_than_it_was_because_a_clock_was_set_back() {
    let mut row = row(A, true);
    let at = 1_000_000 + i64::try_from(DAY.as_millis()).expect("short");
    row.halted = Some(Halted {
        at,
        reason: HaltedReason::Banned,
        until: Some(at + 60_000),
    });
    let mut play = Play::new();
    play.feed(Input::Boot(Ok(Some(row))));
    assert_eq!(
        play.machine.deadline().expect("an end") - play.now.mono,
        Duration::from_mins(1)
    );
    assert_eq!(play.machine.until(), Some(play.now.wall + 60_000));
}

#[test]
fn a_wall_clock_set_while_a_link_waits_moves_what_is_told_and_not_what_is_done() {
    let day = i64::try_from(DAY.as_millis()).expect("short");
    for moved in [-day, day] {
        let mut play = Play::linked(A);
        play.feed(Input::Link(LinkEvent::Closed(Close::Banned(Some(HOUR)))));
        let told = play.machine.until().expect("told");
        let due = play.machine.deadline();
        play.now.wall += moved;
        play.feed(Input::Timer);
        assert_eq!(play.machine.until(), Some(told + moved));
        assert_eq!(play.machine.deadline(), due);
        assert!(play.wants(|effect| matches!(
            effect,
            Effect::Halt(Some(halted)) if halted.until == Some(told + moved)
        )));
        play.feed(Input::Timer);
        assert!(play.fx.is_empty(), "once is enough");

        let mut play = Play::linked(A);
        play.feed(Input::Link(LinkEvent::Closed(Close::Lost)));
        let (told, due) = (play.machine.until().expect("told"), waiting(&play));
        play.now.wall += moved;
        play.feed(Input::Timer);
        assert_eq!(play.machine.until(), Some(told + moved));
        assert_eq!(waiting(&play), due);
    }
}

#[test]
fn a_code_dies_while_the_machine_sleeps() {
    let mut play = Play::new();
    play.ask(A, None);
    play.until_code(A);
    // The steady clock goes on in a suspended machine.
    play.wait(HOUR);
    assert_eq!(play.ended(), Some(EndReason::Expired));
    play.feed(Input::Timer);
    assert!(play.wants(|effect| matches!(effect, Effect::StopLink)));
    assert_eq!(play.machine.state(), State::Unlinked);
}

#[test]
fn a_ban_that_is_over_in_no_time_is_not_asked_about_in_no_time() {
    let mut play = Play::linked(A);
    play.feed(Input::Link(LinkEvent::Closed(Close::Banned(Some(
        Duration::ZERO,
    )))));
    assert_eq!(
        play.machine.deadline().expect("a wait") - play.now.mono,
        BAN_LEAST
    );
    let mut play = Play::linked(A);
    play.feed(Input::Link(LinkEvent::Closed(Close::Banned(None))));
    assert_eq!(
        play.machine.deadline().expect("a wait") - play.now.mono,
        BAN_UNKNOWN
    );
}

#[test]
fn every_rest_ends_with_the_button_where_there_is_a_link_to_take_up() {
    for close in [
        Close::Replaced,
        Close::Locked,
        Close::Banned(Some(HOUR)),
        Close::Refused(400),
    ] {
        let mut play = Play::linked(A);
        play.feed(Input::Link(LinkEvent::Closed(close)));
        play.feed(Input::Reconnect(1));
        assert!(
            play.wants(|effect| matches!(effect, Effect::Halt(None))),
            "{close:?}"
        );
        assert_eq!(play.reconnects(), [Why::Asked], "{close:?}");
        assert_eq!(play.machine.state(), State::Reconnecting);
    }
    let mut play = Play::linked(A);
    play.feed(Input::Link(LinkEvent::Closed(Close::Removed)));
    play.feed(Input::Reconnect(1));
    assert_eq!(play.reconnects(), [], "dead credentials are not tried");
    assert_eq!(play.machine.state(), State::LoggedOut);
}

#[test]
fn the_button_leads_back_to_the_number_where_nothing_was_linked() {
    for (close, state) in [
        (Close::Locked, State::Locked),
        (Close::Banned(Some(HOUR)), State::Banned),
        (Close::Banned(None), State::Banned),
    ] {
        let mut play = Play::new();
        play.ask(A, None);
        play.until_code(A);
        play.feed(Input::Link(LinkEvent::Closed(close)));
        assert_eq!(play.machine.state(), state);
        play.feed(Input::Reconnect(1));
        assert_eq!(play.machine.state(), State::Unlinked);
        assert_eq!(play.machine.deadline(), None);
        assert_eq!(play.reconnects(), []);
    }
}

#[test]
fn a_registration_that_is_banned_says_until_when_and_forgets_it_then() {
    let mut play = Play::new();
    let waiter = play.ask(A, None);
    play.until_prepared(A);
    play.feed(Input::Link(LinkEvent::Closed(Close::Banned(Some(HOUR)))));
    assert_eq!(play.refusal(waiter), Some(Code::Banned));
    assert_eq!(play.machine.state(), State::Banned);
    assert_eq!(play.machine.until(), Some(play.now.wall + 3_600_000));
    play.wait(HOUR);
    assert_eq!(play.machine.state(), State::Unlinked);
    assert!(play.fx.is_empty());
}

#[test]
fn a_store_that_cannot_be_read_at_the_start_is_looked_at_again_until_it_can() {
    let mut play = Play::new();
    play.feed(Input::Boot(Err(())));
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert_eq!(play.machine.state(), State::StoreUnavailable);
        let wait = play.machine.deadline().expect("a wait") - play.now.mono;
        waits.push(wait);
        play.wait(wait);
        assert!(play.wants(|effect| matches!(effect, Effect::Reboot)));
        play.feed(Input::Boot(Err(())));
    }
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(20)));
    // The button looks at once.
    play.feed(Input::Reconnect(1));
    assert!(play.wants(|effect| matches!(effect, Effect::Reboot)));
    play.feed(Input::Boot(Ok(Some(row(A, true)))));
    assert_eq!(play.reconnects(), [Why::Store]);
    connect(&mut play);
}

#[test]
fn a_store_that_fails_a_link_stops_it_and_a_fresh_client_follows() {
    let mut play = Play::linked(A);
    play.wait(HOUR);
    play.feed(Input::Link(LinkEvent::StoreTrouble));
    assert!(play.wants(|effect| matches!(effect, Effect::StopLink)));
    assert_eq!(play.machine.state(), State::StoreUnavailable);
    let wait = play.machine.deadline().expect("a wait") - play.now.mono;
    play.wait(wait);
    assert!(play.wants(|effect| matches!(effect, Effect::Reboot)));
    play.feed(Input::Boot(Ok(play.row.clone())));
    connect(&mut play);
}

#[test]
fn a_store_that_fails_each_fresh_client_is_not_filled_with_clients() {
    let mut play = Play::linked(A);
    let mut waits = Vec::new();
    for _ in 0..6 {
        play.feed(Input::Link(LinkEvent::StoreTrouble));
        let wait = play.machine.deadline().expect("a wait") - play.now.mono;
        waits.push(wait);
        play.wait(wait);
        play.feed(Input::Boot(Ok(play.row.clone())));
        connect(&mut play);
    }
    assert!(waits[5] >= Duration::from_secs(10), "{waits:?}");
}

#[test]
fn a_store_that_fails_a_request_ends_it_and_says_so() {
    let mut play = Play::new();
    play.ask(A, None);
    play.until_code(A);
    play.feed(Input::Link(LinkEvent::StoreTrouble));
    assert_eq!(play.ended(), Some(EndReason::Failed));
    assert!(play.wants(
        |effect| matches!(effect, Effect::Error(error) if error.code == Code::StoreUnavailable)
    ));
    assert_eq!(play.machine.state(), State::Unlinked);
    assert_eq!(play.machine.reason(), Some(Code::StoreUnavailable));
}

#[test]
fn a_half_link_whose_keys_turn_up_after_all_is_a_whole_one() {
    let mut play = Play::new();
    play.ask(A, None);
    play.until_code(A);
    play.feed(Input::Link(LinkEvent::PairSuccess(Paired {
        phone: SecretText::new("79001234567".to_owned()),
        jid: SecretText::new("79001234567:1@s.whatsapp.net".to_owned()),
        lid: None,
    })));
    let ticket = play.ticket();
    play.feed(Input::Marked(ticket, Err(())));
    assert_eq!(play.machine.state(), State::HalfLinked);
    let wait = play.machine.deadline().expect("a wait") - play.now.mono;
    play.wait(wait);
    assert!(play.wants(|effect| matches!(effect, Effect::Reboot)));
    play.feed(Input::Boot(Ok(Some(row(A, true)))));
    connect(&mut play);
}

#[test]
fn a_request_that_waits_for_its_entry_is_not_lost_when_the_store_heals() {
    let mut play = Play::new();
    play.feed(Input::Boot(Err(())));
    let waiter = play.ask(B, None);
    let record = play.ticket();
    let wait = play.machine.deadline().expect("a wait") - play.now.mono;
    play.wait(wait);
    play.feed(Input::Boot(Ok(Some(row(A, true)))));
    play.feed(Input::Journaled(record, true));
    assert_eq!(
        play.refusal(waiter),
        Some(Code::ReplaceConfirmationRequired),
        "nobody agreed to give up what has turned up"
    );
    assert_eq!(play.machine.state(), State::Reconnecting);
}

#[test]
fn a_link_that_stays_up_is_written_down_as_connected_now_and_then() {
    let mut play = Play::linked(A);
    for _ in 0..3 {
        play.wait(SEEN);
        assert!(play.wants(|effect| matches!(effect, Effect::Seen)));
        assert_eq!(play.machine.state(), State::Connected);
        play.feed(Input::Timer);
        assert!(play.fx.is_empty());
    }
}

#[test]
fn an_unlinking_does_not_wait_for_a_check_that_waits_for_whatsapp() {
    let mut play = Play::linked(A);
    let link_id = play.row.as_ref().expect("a row").link_id.clone();
    let waiter = play.ask(B, Some(&link_id));
    let ticket = play.ticket();
    play.feed(Input::Journaled(ticket, true));
    play.feed(Input::Unlink(9, super::tests::asker()));
    assert_eq!(play.refusal(waiter), Some(Code::Cancelled));
    assert!(play.wants(|effect| matches!(effect, Effect::Job(_, Job::Leave { .. }))));
}
