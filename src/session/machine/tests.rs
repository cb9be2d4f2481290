//! Every race that is known of, as a unit test: time and events are arguments here.

use super::*;
use crate::phone::Country;
use crate::session::types::By;
use crate::store::{Linked, Store};

const TTL: Duration = Duration::from_mins(3);
const GRACE: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(20);

/// A machine, its clock, and what it wanted last.
pub(super) struct Play {
    pub(super) machine: Machine,
    pub(super) now: Now,
    pub(super) fx: Vec<Effect>,
    waiter: Waiter,
    pub(super) row: Option<LinkRow>,
    over_budget: Option<u64>,
}

impl Play {
    pub(super) fn new() -> Self {
        Self {
            machine: Machine::new(Limits {
                code_ttl: TTL,
                code_grace: GRACE,
                connect_timeout: CONNECT,
            }),
            now: Now {
                mono: Instant::now(),
                wall: 1_000_000,
            },
            fx: Vec::new(),
            waiter: 0,
            row: None,
            over_budget: None,
        }
    }

    /// Over a link that stands.
    pub(super) fn linked(number: &str) -> Self {
        let mut play = Self::new();
        play.row = Some(row(number, true));
        play.feed(Input::Boot(Ok(play.row.clone())));
        let ticket = play.ticket();
        play.feed(Input::Started(ticket, true));
        play.feed(Input::Link(LinkEvent::Connected));
        assert_eq!(play.machine.state(), State::Connected);
        play
    }

    pub(super) fn feed(&mut self, input: Input) {
        self.fx.clear();
        let machine = std::mem::replace(&mut self.machine, Machine::vacant());
        self.machine = machine.handle(input, self.now, &mut self.fx);
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.wall += i64::try_from(time.as_millis()).expect("short");
        self.feed(Input::Timer);
    }

    pub(super) fn ask(&mut self, number: &str, replace: Option<&str>) -> Waiter {
        self.waiter += 1;
        let request = CodeRequest {
            phone: phone(number),
            replace: replace.map(str::to_owned),
            asker: asker(),
        };
        let ask = Ask {
            request,
            waiters: vec![self.waiter],
            asked: self.now,
        };
        let facts = Facts {
            row: Ok(self.row.clone()),
            over_budget: self.over_budget,
        };
        self.feed(Input::Ask(ask, facts));
        self.waiter
    }

    /// The ticket of the job that was wanted last.
    pub(super) fn ticket(&self) -> Ticket {
        self.fx
            .iter()
            .find_map(|effect| match effect {
                Effect::Job(ticket, _) => Some(*ticket),
                _ => None,
            })
            .unwrap_or_else(|| panic!("no job in {:?}", self.fx))
    }

    pub(super) fn refusal(&self, waiter: Waiter) -> Option<Code> {
        self.fx.iter().find_map(|effect| match effect {
            Effect::Reply(waiters, Err(error)) if waiters.contains(&waiter) => Some(error.code),
            _ => None,
        })
    }

    fn answer(&self, waiter: Waiter) -> Option<PairingCode> {
        self.fx.iter().find_map(|effect| match effect {
            Effect::Reply(waiters, Ok(Answer::Code(code))) if waiters.contains(&waiter) => {
                Some(code.clone())
            }
            _ => None,
        })
    }

    pub(super) fn ended(&self) -> Option<EndReason> {
        self.fx.iter().find_map(|effect| match effect {
            Effect::CodeEnded(reason, _) => Some(*reason),
            _ => None,
        })
    }

    pub(super) fn reconnects(&self) -> Vec<Why> {
        self.fx
            .iter()
            .filter_map(|effect| match effect {
                Effect::Reconnect(why) => Some(*why),
                _ => None,
            })
            .collect()
    }

    pub(super) fn wants(&self, what: impl Fn(&Effect) -> bool) -> bool {
        self.fx.iter().any(what)
    }

    /// From a request that was let in to the client that registers for it.
    pub(super) fn until_prepared(&mut self, number: &str) {
        let ticket = self.ticket();
        self.feed(Input::Journaled(ticket, true));
        let ticket = self.ticket();
        assert!(self.wants(|effect| matches!(effect, Effect::Job(_, Job::Prepare { .. }))));
        self.row = Some(row(number, false));
        self.feed(Input::Prepared(ticket, Ok(self.prepared())));
    }

    /// From a request that was let in to its code.
    pub(super) fn until_code(&mut self, number: &str) {
        self.until_prepared(number);
        self.feed(Input::Link(LinkEvent::Opened));
        assert!(self.wants(|effect| matches!(effect, Effect::RequestCode(_))));
        self.feed(Input::Link(LinkEvent::Code {
            code: SecretText::new("ABCDEFGH".to_owned()),
            left: TTL,
        }));
    }

    pub(super) fn prepared(&self) -> Prepared {
        Prepared {
            row: self.row.clone().expect("a row"),
            replaced: None,
        }
    }
}

fn phone(number: &str) -> Phone {
    Phone::parse(number, Country::parse("RU").expect("RU")).expect("a number")
}

pub(super) fn asker() -> Asker {
    Asker {
        by: By::Page,
        user_agent: None,
    }
}

/// Epochs can only come from a store, so the rows here are of one.
pub(super) fn row(number: &str, linked: bool) -> LinkRow {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path(), crate::store::Options::default()).expect("a store");
    let next = crate::store::NewLink {
        line: phone(number).line_key(),
        intended: phone(number).digits().into(),
        now: 1,
    };
    let mut row = pollster::block_on(store.replace_link("salon", None, Some(next), Vec::new()))
        .expect("opened")
        .link
        .expect("a row");
    row.linked = linked.then(|| Linked {
        at: 1,
        phone: phone(number).digits().into(),
        jid: format!("{}:1@s.whatsapp.net", phone(number).digits()).into(),
        lid: None,
    });
    row
}

pub(super) const A: &str = "+79001234567";
pub(super) const B: &str = "+79007654321";
const C: &str = "+79005550011";

#[test]
fn a_request_goes_its_way_and_everybody_who_joins_gets_the_same_code() {
    let mut play = Play::new();
    let first = play.ask(A, None);
    let ticket = play.ticket();
    play.feed(Input::Journaled(ticket, true));
    let prepare = play.ticket();
    let second = play.ask("8 900 123-45-67", None);
    assert!(play.fx.is_empty(), "it joins: {:?}", play.fx);
    play.row = Some(row(A, false));
    play.feed(Input::Prepared(prepare, Ok(play.prepared())));
    let third = play.ask(A, None);
    play.feed(Input::Link(LinkEvent::Opened));
    play.feed(Input::Link(LinkEvent::Code {
        code: SecretText::new("ABCDEFGH".to_owned()),
        left: TTL,
    }));
    for waiter in [first, second, third] {
        assert_eq!(
            play.answer(waiter).expect("answered").code.reveal(),
            "ABCD-EFGH"
        );
    }
    let again = play.ask(A, None);
    assert_eq!(
        play.answer(again).expect("at once").code.reveal(),
        "ABCD-EFGH"
    );
    assert!(
        !play.wants(|effect| matches!(effect, Effect::Job(..))),
        "and costs nothing"
    );
}

#[test]
fn a_code_never_outlives_what_whatsapp_says_is_left() {
    let mut play = Play::new();
    play.ask(A, None);
    play.until_prepared(A);
    play.feed(Input::Link(LinkEvent::Opened));
    play.feed(Input::Link(LinkEvent::Code {
        code: SecretText::new("ABCDEFGH".to_owned()),
        left: Duration::from_mins(1),
    }));
    let code = play.machine.code(play.now).expect("shown");
    assert_eq!(code.deadline - play.now.mono, Duration::from_secs(50));
    play.wait(Duration::from_secs(50));
    assert_eq!(play.ended(), Some(EndReason::Expired));
    assert_eq!(play.machine.state(), State::Unlinked);
    assert!(
        !play.wants(|effect| matches!(effect, Effect::StopLink)),
        "it still links in its grace"
    );
    play.feed(Input::Link(LinkEvent::PhoneTookCode));
    assert_eq!(play.machine.state(), State::Linking);
}

#[test]
fn after_its_grace_a_code_is_dead() {
    let mut play = Play::new();
    play.ask(A, None);
    play.until_code(A);
    play.wait(TTL.saturating_sub(GRACE));
    play.wait(GRACE);
    assert!(play.wants(|effect| matches!(effect, Effect::StopLink)));
    play.feed(Input::Link(LinkEvent::PhoneTookCode));
    assert_eq!(
        play.machine.state(),
        State::Unlinked,
        "a late report of a stopped client"
    );
}

#[test]
fn while_the_phone_links_the_codes_clock_stands_and_another_runs() {
    let mut play = Play::new();
    play.ask(A, None);
    play.until_code(A);
    play.wait(Duration::from_secs(100));
    play.feed(Input::Link(LinkEvent::PhoneTookCode));
    let left =
        |play: &Play| play.machine.code(play.now).expect("still there").deadline - play.now.mono;
    assert_eq!(left(&play), Duration::from_secs(70));
    play.wait(Duration::from_secs(50));
    assert_eq!(left(&play), Duration::from_secs(70));
    let stopped = play.machine.code(play.now).expect("still there").stopped;
    assert_eq!(stopped, Some(Duration::from_secs(70)));
    let cancel = 99;
    play.feed(Input::Cancel(cancel));
    assert_eq!(play.refusal(cancel), Some(Code::LinkingInProgress));
    let other = play.ask(B, None);
    assert_eq!(play.refusal(other), Some(Code::LinkingInProgress));
    play.wait(Duration::from_secs(10));
    assert_eq!(play.ended(), Some(EndReason::Failed));
    assert_eq!(play.machine.state(), State::Unlinked);
}

#[test]
fn a_store_that_cannot_commit_refuses_and_the_code_of_the_other_line_lives_on() {
    let mut play = Play::new();
    play.ask(A, None);
    play.until_code(A);
    let other = play.ask(B, None);
    let ticket = play.ticket();
    play.feed(Input::Journaled(ticket, false));
    assert_eq!(play.refusal(other), Some(Code::StoreUnavailable));
    assert_eq!(play.machine.state(), State::AwaitingCodeEntry);
    assert!(play.machine.code(play.now).is_some());
}

#[test]
fn a_phone_that_takes_the_code_while_another_line_is_being_recorded_wins() {
    let mut play = Play::new();
    play.ask(A, None);
    play.until_code(A);
    let other = play.ask(B, None);
    let ticket = play.ticket();
    play.feed(Input::Link(LinkEvent::PhoneTookCode));
    play.feed(Input::Journaled(ticket, true));
    assert_eq!(play.refusal(other), Some(Code::LinkingInProgress));
    assert_eq!(play.machine.state(), State::Linking);
}

#[test]
fn another_line_asked_between_wipe_and_connection_is_asked_again_with_fresh_facts() {
    let mut play = Play::new();
    let first = play.ask(A, None);
    let ticket = play.ticket();
    play.feed(Input::Journaled(ticket, true));
    let prepare = play.ticket();
    play.ask(B, None);
    assert_eq!(play.refusal(first), Some(Code::Superseded));
    play.row = Some(row(A, false));
    play.feed(Input::Prepared(prepare, Ok(play.prepared())));
    assert!(play.wants(|effect| matches!(effect, Effect::StopLink)));
    assert!(
        play.wants(|effect| matches!(effect, Effect::Ask(ask) if ask.phone().same_line(&phone(B))))
    );
}

#[test]
fn a_request_cancelled_while_it_is_prepared_comes_to_nothing() {
    let mut play = Play::new();
    let waiter = play.ask(A, None);
    let ticket = play.ticket();
    play.feed(Input::Journaled(ticket, true));
    let prepare = play.ticket();
    play.feed(Input::Cancel(50));
    assert_eq!(play.refusal(waiter), Some(Code::Cancelled));
    play.row = Some(row(A, false));
    play.feed(Input::Prepared(prepare, Ok(play.prepared())));
    assert!(play.wants(|effect| matches!(effect, Effect::StopLink)));
    assert_eq!(play.machine.state(), State::Unlinked);
}

#[test]
fn a_live_link_goes_on_through_every_refusal() {
    let mut play = Play::linked(A);
    let link_id = play.row.as_ref().expect("a row").link_id.clone();
    let same = play.ask(A, None);
    assert_eq!(play.refusal(same), Some(Code::AlreadyLinked));
    let other = play.ask(B, Some("not its id"));
    assert_eq!(play.refusal(other), Some(Code::ReplaceConfirmationRequired));
    play.over_budget = Some(100);
    let spent = play.ask(B, Some(&link_id));
    assert_eq!(
        play.refusal(spent),
        Some(Code::RateLimited),
        "the budget comes first"
    );
    play.over_budget = None;
    let silent = play.ask(B, Some(&link_id));
    let ticket = play.ticket();
    play.feed(Input::Journaled(ticket, true));
    assert!(play.wants(|effect| matches!(effect, Effect::Job(_, Job::Probe))));
    let ticket = play.ticket();
    assert_eq!(play.machine.state(), State::Connected);
    play.feed(Input::Probed(ticket, Err(Code::WhatsappUnreachable)));
    assert_eq!(play.refusal(silent), Some(Code::WhatsappUnreachable));
    assert_eq!(play.machine.state(), State::Connected);
}

#[test]
fn a_wipe_that_fails_after_the_telling_leaves_leftovers_for_the_next_try() {
    let mut play = Play::linked(A);
    let link_id = play.row.as_ref().expect("a row").link_id.clone();
    let waiter = play.ask(B, Some(&link_id));
    let ticket = play.ticket();
    play.feed(Input::Journaled(ticket, true));
    let ticket = play.ticket();
    play.feed(Input::Probed(ticket, Ok(())));
    let ticket = play.ticket();
    play.feed(Input::Prepared(
        ticket,
        Err(PrepareFailed {
            told: true,
            row: None,
        }),
    ));
    assert_eq!(play.refusal(waiter), Some(Code::StoreUnavailable));
    assert!(
        play.wants(|effect| matches!(effect, Effect::Reply(_, Err(error)) if error.reason == Some("told_not_wiped")))
    );
    assert_eq!(play.machine.state(), State::LoggedOut);
    // The store still believes in the link; whoever asks next, for whichever line, is not asked about it.
    for number in [A, B] {
        let waiter = play.ask(number, None);
        assert_eq!(play.refusal(waiter), None, "{number}");
        let ticket = play.ticket();
        play.feed(Input::Journaled(ticket, true));
        assert!(
            play.wants(|effect| matches!(
                effect,
                Effect::Job(_, Job::Prepare { tell: false, old: Some(old), .. }) if old.ended.is_some()
            )),
            "{number}: {:?}",
            play.fx
        );
        let ticket = play.ticket();
        play.feed(Input::Prepared(
            ticket,
            Err(PrepareFailed {
                told: false,
                row: None,
            }),
        ));
    }
}

#[test]
fn a_request_that_is_refused_takes_nothing_from_one_that_is_being_checked() {
    let mut play = Play::linked(A);
    let link_id = play.row.as_ref().expect("a row").link_id.clone();
    let confirmed = play.ask(B, Some(&link_id));
    let ticket = play.ticket();
    play.feed(Input::Journaled(ticket, true));
    let probe = play.ticket();
    let careless = play.ask(C, None);
    assert_eq!(
        play.refusal(careless),
        Some(Code::ReplaceConfirmationRequired)
    );
    assert_eq!(play.refusal(confirmed), None);
    play.over_budget = Some(100);
    let spent = play.ask(C, Some(&link_id));
    assert_eq!(play.refusal(spent), Some(Code::RateLimited));
    assert_eq!(play.refusal(confirmed), None);
    play.feed(Input::Probed(probe, Ok(())));
    assert!(play.wants(|effect| matches!(effect, Effect::Job(_, Job::Prepare { .. }))));
    // Nor from one that is being prepared.
    let spent = play.ask(C, None);
    assert_eq!(play.refusal(spent), Some(Code::RateLimited));
    assert_eq!(play.refusal(confirmed), None);
    assert_eq!(play.machine.phone(), Some("79007***321".to_owned()));
}

#[test]
fn pictures_that_nobody_scans_are_no_fault_of_the_network() {
    let mut play = Play::new();
    play.ask(A, None);
    play.until_prepared(A);
    play.feed(Input::Link(LinkEvent::Opened));
    play.feed(Input::Link(LinkEvent::CodeRefused(Refusal::NotAvailable)));
    for _ in 1..QR_ROUNDS {
        play.feed(Input::Link(LinkEvent::Closed(Close::Lost)));
        assert_eq!(play.machine.state(), State::AwaitingScan);
        let ticket = play.ticket();
        play.feed(Input::Started(ticket, true));
    }
    play.feed(Input::Link(LinkEvent::Closed(Close::Lost)));
    assert_eq!(play.machine.state(), State::Unlinked);
    assert_eq!(play.machine.reason(), Some(Code::CodeNotAvailable));
}

#[test]
fn a_store_that_does_not_take_the_acceptance_ends_the_linking_and_says_so() {
    let mut play = Play::new();
    play.ask(A, None);
    play.until_code(A);
    play.feed(Input::Link(LinkEvent::PhoneTookCode));
    play.feed(Input::Link(LinkEvent::StoreTrouble));
    assert_eq!(play.ended(), Some(EndReason::Failed));
    assert!(play.wants(
        |effect| matches!(effect, Effect::Error(error) if error.code == Code::StoreUnavailable)
    ));
    assert_eq!(play.machine.state(), State::Unlinked);
    assert_eq!(play.machine.reason(), Some(Code::StoreUnavailable));
}

#[test]
fn a_strangers_link_left_by_a_power_cut_is_told_to_go_before_it_is_wiped() {
    let left_behind = || {
        let mut play = Play::new();
        let mut stranger = row(B, true);
        stranger.ended = Some(crate::store::Ended {
            at: 1,
            reason: EndedReason::WrongPhone,
        });
        play.row = Some(stranger);
        play.feed(Input::Boot(Ok(play.row.clone())));
        assert_eq!(play.machine.reason(), Some(Code::WrongPhoneLinked));
        play
    };
    let mut play = left_behind();
    play.ask(A, None);
    let ticket = play.ticket();
    play.feed(Input::Journaled(ticket, true));
    assert!(play.wants(|effect| matches!(effect, Effect::Job(_, Job::Prepare { tell: true, .. }))));
    let mut play = left_behind();
    play.feed(Input::Unlink(1, asker()));
    assert!(play.wants(|effect| matches!(effect, Effect::Job(_, Job::Leave { tell: true, .. }))));
    // A wipe that fails leaves it a stranger's: nothing connects it.
    let ticket = play.ticket();
    play.feed(Input::Left(ticket, Err(LeaveFailed { told: false })));
    assert!(!play.wants(|effect| matches!(effect, Effect::Job(..))));
}

#[test]
fn logged_out_is_decided_by_its_reason_never_by_its_name() {
    for (close, state, ended) in [
        (Close::LoggedOut, State::LoggedOut, true),
        (Close::Removed, State::LoggedOut, true),
        (Close::Locked, State::Locked, false),
        (
            Close::Banned(Some(Duration::from_mins(1))),
            State::Banned,
            false,
        ),
        (Close::Banned(None), State::Banned, false),
        (Close::Replaced, State::Replaced, false),
        (Close::Refused(413), State::Failed, false),
        (Close::Lost, State::Reconnecting, false),
        (Close::TooFast, State::Reconnecting, false),
        (Close::Outdated, State::Reconnecting, false),
    ] {
        let mut play = Play::linked(A);
        play.feed(Input::Link(LinkEvent::Closed(close)));
        assert_eq!(play.machine.state(), state, "{close:?}");
        assert_eq!(
            play.wants(|effect| matches!(effect, Effect::End(_))),
            ended,
            "{close:?}: credentials are given up only when they are dead"
        );
    }
}

#[test]
fn a_replaced_link_rests_until_somebody_takes_it_back() {
    let mut play = Play::linked(A);
    play.feed(Input::Link(LinkEvent::Closed(Close::Replaced)));
    assert_eq!(play.machine.deadline(), None, "it does not fight back");
    play.feed(Input::Reconnect(7));
    assert!(play.wants(|effect| matches!(effect, Effect::Halt(None))));
    assert!(play.wants(|effect| matches!(effect, Effect::Job(_, Job::Start))));
}

#[test]
fn a_ban_ends_by_itself() {
    let mut play = Play::linked(A);
    let ban = Duration::from_hours(1);
    play.feed(Input::Link(LinkEvent::Closed(Close::Banned(Some(ban)))));
    assert_eq!(play.machine.until(), Some(play.now.wall + 3_600_000));
    play.wait(ban.saturating_sub(Duration::from_secs(1)));
    assert_eq!(play.machine.state(), State::Banned);
    play.wait(Duration::from_secs(1));
    assert!(play.wants(|effect| matches!(effect, Effect::Job(_, Job::Start))));
    assert!(play.wants(|effect| matches!(effect, Effect::Halt(None))));
    assert_eq!(play.reconnects(), [Why::BanOver]);
}

#[test]
fn a_restart_demand_while_linked_starts_anew_at_once() {
    let mut play = Play::linked(A);
    play.feed(Input::Link(LinkEvent::Closed(Close::Restart)));
    assert!(play.wants(|effect| matches!(effect, Effect::Job(_, Job::Start))));
    assert_eq!(play.reconnects(), [Why::Restart]);
}

#[test]
fn a_number_that_nobody_asked_for_is_unlinked_and_told() {
    let mut play = Play::new();
    play.ask(A, None);
    play.until_code(A);
    play.feed(Input::Link(LinkEvent::PairSuccess(Paired {
        phone: SecretText::new("79007654321".to_owned()),
        jid: SecretText::new("79007654321:1@s.whatsapp.net".to_owned()),
        lid: None,
    })));
    assert!(play.wants(|effect| matches!(effect, Effect::Job(_, Job::Mark { wrong: true, .. }))));
    let ticket = play.ticket();
    play.feed(Input::Marked(ticket, Ok(row(B, true))));
    play.feed(Input::Link(LinkEvent::Closed(Close::Restart)));
    let ticket = play.ticket();
    play.feed(Input::Started(ticket, true));
    play.feed(Input::Link(LinkEvent::Connected));
    assert!(play.wants(|effect| matches!(
        effect,
        Effect::Job(
            _,
            Job::Leave {
                why: Leaving::WrongPhone,
                ..
            }
        )
    )));
    let ticket = play.ticket();
    play.feed(Input::Left(ticket, Ok(Left { told: true })));
    assert_eq!(play.ended(), Some(EndReason::Failed));
    assert!(play.wants(
        |effect| matches!(effect, Effect::Error(error) if error.code == Code::WrongPhoneLinked)
    ));
    assert_eq!(play.machine.state(), State::Unlinked);
}

#[test]
fn the_answer_of_an_abandoned_job_changes_nothing() {
    let mut play = Play::linked(A);
    play.feed(Input::Journaled(4242, true));
    play.feed(Input::Probed(4242, Ok(())));
    play.feed(Input::Started(4242, false));
    assert!(play.fx.is_empty());
    assert_eq!(play.machine.state(), State::Connected);
}

#[test]
fn a_start_checks_nothing_and_wipes_nothing() {
    for stored in [None, Some(row(A, false)), Some(row(A, true))] {
        let mut play = Play::new();
        play.feed(Input::Boot(Ok(stored)));
        assert!(!play.wants(|effect| matches!(
            effect,
            Effect::Job(_, Job::Prepare { .. } | Job::Leave { .. }) | Effect::End(_)
        )));
    }
}

#[test]
fn a_half_link_is_said_to_be_one() {
    let mut half = row(A, false);
    half.finishing = true;
    let mut play = Play::new();
    play.feed(Input::Boot(Ok(Some(half.clone()))));
    assert_eq!(play.machine.state(), State::HalfLinked);
    play.row = Some(half);
    play.ask(A, None);
    assert!(
        play.wants(|effect| matches!(effect, Effect::Job(_, Job::Journal(_)))),
        "a new code can be asked for"
    );
}
