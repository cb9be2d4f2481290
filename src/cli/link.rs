//! Owns `hairpin link`: the number, the question whether a link may go, the code, and how it ends.

use std::io::IsTerminal as _;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::screen::{Countdown, Screen};
use super::{phone, reach, term, unlink};
use crate::config::Settings;
use crate::control::{Answer, Ask, Conversation, Failure, TalkError};
use crate::exit::ExitError;
use crate::phone::{Country, Phone};
use crate::words::Lang;

/// How long an appliance may take to say anything at all.
const FIRST: Duration = Duration::from_secs(10);
/// How long an appliance may take to end a code.
const CANCEL: Duration = Duration::from_secs(5);

/// What was typed.
pub(super) struct Typed<'a> {
    /// The number; none or `-` asks for it.
    pub(super) phone: Option<&'a str>,
    pub(super) session: &'a str,
    pub(super) country: Option<&'a str>,
    pub(super) replace: bool,
}

pub(super) async fn link(settings: &Settings, typed: Typed<'_>) -> Result<(), ExitError> {
    if matches!(typed.phone, None | Some("-")) {
        // Nobody types a number for an appliance that is not there.
        drop(reach::appliance(settings, &Ask::Status {}).await?);
    }
    let phone = number(typed.phone, typed.country, settings.country)?;
    pair(settings, typed.session, &phone, typed.replace).await
}

/// Reads the number from the argument, or asks for it so that it is not in the process list.
fn number(
    given: Option<&str>,
    country: Option<&str>,
    default: Country,
) -> Result<Phone, ExitError> {
    let refused = |error| ExitError::wrong_use(phone::sentence(error, Lang::En));
    let country = country
        .map_or(Ok(default), Country::parse)
        .map_err(refused)?;
    match given {
        Some(given) if given != "-" => Phone::parse(given, country),
        _ => Phone::parse(&term::ask_for_number()?, country),
    }
    .map_err(refused)
}

async fn pair(
    settings: &Settings,
    session: &str,
    phone: &Phone,
    replace: bool,
) -> Result<(), ExitError> {
    let mut interrupts = Interrupts::new()?;
    let mut agreed = None;
    loop {
        let ask = Ask::Link {
            session: session.to_owned(),
            phone: phone.e164().into(),
            replace: agreed.clone(),
        };
        let conversation = reach::appliance(settings, &ask).await?;
        let attempt = Attempt {
            conversation,
            screen: Screen::new(),
            countdown: None,
            asked: false,
            state: String::new(),
        };
        let failure = match attempt.run(&mut interrupts, phone).await {
            Ok(()) => return Ok(()),
            Err(Stopped::For(error)) => return Err(error),
            Err(Stopped::Silent) => return Err(reach::silent(settings)),
            Err(Stopped::Refused(failure)) => failure,
        };
        // Only the link that was found may go: another one that came meanwhile is refused again.
        let Some(found) = failure.link_id.clone().filter(|_| agreed.is_none()) else {
            return Err(refused(&failure, session, phone));
        };
        let may_ask =
            failure.code == "REPLACE_CONFIRMATION_REQUIRED" && std::io::stdin().is_terminal();
        let may_go = replace || (may_ask && confirmed(&failure, phone, &mut interrupts).await?);
        if !may_go {
            return Err(refused(&failure, session, phone));
        }
        agreed = Some(found);
    }
}

/// Asks whether the link that was found may be replaced; the default is no.
async fn confirmed(
    failure: &Failure,
    phone: &Phone,
    interrupts: &mut Interrupts,
) -> Result<bool, ExitError> {
    term::prompt(&question(failure.old_phone.as_deref(), phone));
    let (said, answer) = tokio::sync::oneshot::channel();
    // A thread of its own: nothing interrupts a read, but the program may end without it.
    std::thread::spawn(move || {
        let _ = said.send(term::read_line());
    });
    tokio::select! {
        answer = answer => Ok(is_yes(&answer.unwrap_or_else(|_| Ok(String::new().into()))?)),
        () = interrupts.next() => {
            term::prompt("\n");
            Err(ExitError::failed("nothing was changed"))
        }
    }
}

fn question(old: Option<&str>, phone: &Phone) -> String {
    format!(
        "{} is linked. Replace the link of {} by one of {}? [y/N] ",
        old.unwrap_or("Another number"),
        old.unwrap_or("that number"),
        phone.masked()
    )
}

fn is_yes(answer: &str) -> bool {
    matches!(
        answer.trim().to_lowercase().as_str(),
        "y" | "yes" | "д" | "да"
    )
}

/// Ctrl-C, and its like from other programs.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn new() -> Result<Self, ExitError> {
        let take = |kind| {
            signal(kind)
                .map_err(|error| ExitError::failed(format!("signals cannot be received: {error}")))
        };
        Ok(Self {
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Why an attempt did not link.
enum Stopped {
    For(ExitError),
    Refused(Failure),
    Silent,
}

impl From<ExitError> for Stopped {
    fn from(error: ExitError) -> Self {
        Self::For(error)
    }
}

struct Attempt {
    conversation: Conversation,
    screen: Screen,
    countdown: Option<Countdown>,
    /// It was said that a code is being asked for.
    asked: bool,
    state: String,
}

impl Attempt {
    async fn run(mut self, interrupts: &mut Interrupts, phone: &Phone) -> Result<(), Stopped> {
        let mut by = Some(Instant::now() + FIRST);
        let mut cancelling = false;
        loop {
            let tick = self.countdown.as_ref().and_then(Countdown::next);
            tokio::select! {
                biased;
                () = interrupts.next() => {
                    if std::mem::replace(&mut cancelling, true) {
                        self.screen.finish()?;
                        return Err(ExitError::failed("left; the code may still be open, see `hairpin status`").into());
                    }
                    by = Some(Instant::now() + CANCEL);
                    self.conversation.cancel().await;
                }
                answer = self.conversation.next() => {
                    if !cancelling {
                        by = None;
                    }
                    match self.answer(answer, phone) {
                        Ok(false) => {}
                        Ok(true) => return Ok(()),
                        Err(stopped) => {
                            self.screen.finish()?;
                            return Err(stopped);
                        }
                    }
                }
                () = until(tick) => {
                    if let Some(countdown) = &mut self.countdown {
                        self.screen.tick(countdown)?;
                    }
                }
                () = until(by) => {
                    self.screen.finish()?;
                    return Err(Stopped::Silent);
                }
            }
        }
    }

    /// Takes a line in; whether the phone is linked now.
    fn answer(
        &mut self,
        answer: Result<Answer, TalkError>,
        phone: &Phone,
    ) -> Result<bool, Stopped> {
        match answer {
            Ok(Answer::Status(status)) => self.status(status.state, phone)?,
            Ok(Answer::Code {
                code,
                phone,
                expires_in,
                replaced,
            }) => {
                if let Some(old) = replaced
                    .filter(|replaced| replaced.was_linked)
                    .and_then(|replaced| replaced.old_phone)
                {
                    self.screen
                        .line(&term::clean(&format!("The old link of {old} is wiped.")))?;
                }
                if self.state == "LINKING" {
                    self.screen
                        .line("The phone has taken the code already; linking …")?;
                    return Ok(false);
                }
                self.screen.line(&term::clean(&format!(
                    "On the phone {phone} open WhatsApp, Linked devices, Link a device, Link with phone number instead, and type:"
                )))?;
                let mut countdown = Countdown::new(code.reveal(), expires_in);
                self.screen.tick(&mut countdown)?;
                self.countdown = Some(countdown);
            }
            Ok(Answer::Ended { reason }) if reason == "linked" => {
                let up = if self.state == "CONNECTED" {
                    ""
                } else {
                    " It is not connected yet; the appliance goes on trying."
                };
                self.screen
                    .line(&format!("{} is linked.{up}", phone.masked()))?;
                return Ok(true);
            }
            Ok(Answer::Ended { reason }) => return Err(ended(&reason).into()),
            Ok(Answer::Failed(failure)) => return Err(Stopped::Refused(failure)),
            Ok(_) | Err(TalkError::Strange) => return Err(reach::strange().into()),
            Err(TalkError::Gone) => return Err(reach::gone().into()),
            Err(TalkError::Silent) => return Err(Stopped::Silent),
        }
        Ok(false)
    }

    fn status(&mut self, state: String, phone: &Phone) -> Result<(), ExitError> {
        if state != self.state {
            match state.as_str() {
                "CONNECTING" if self.countdown.is_none() && !self.asked => {
                    self.asked = true;
                    self.screen.line(&format!(
                        "Asking WhatsApp for a code for {} …",
                        phone.masked()
                    ))?;
                }
                "LINKING" if self.countdown.is_some() => {
                    // Its time has stopped: nobody needs to hurry any more.
                    self.countdown = None;
                    self.screen
                        .line("The phone has taken the code; linking …")?;
                }
                _ => {}
            }
        }
        self.state = state;
        Ok(())
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Why a code is over.
fn ended(reason: &str) -> ExitError {
    ExitError::failed(match reason {
        "expired" => {
            "no phone typed the code in its time; ask for a new one with `hairpin link`".to_owned()
        }
        "cancelled" => "the code was cancelled; nothing was linked".to_owned(),
        "superseded" => "a code for another number was asked for, so this one is void".to_owned(),
        "refresh" => {
            "WhatsApp took the code back; ask for a new one with `hairpin link`".to_owned()
        }
        "attempts" => {
            "the phone was given wrong codes too often; ask for a new one with `hairpin link`"
                .to_owned()
        }
        "failed" => "the linking failed; try again with `hairpin link`".to_owned(),
        other => format!("the code is over ({other}); ask for a new one with `hairpin link`"),
    })
}

/// A refusal, with the mend that a terminal has.
fn refused(failure: &Failure, session: &str, phone: &Phone) -> ExitError {
    let old = failure.old_phone.as_deref().unwrap_or("another number");
    match failure.code.as_str() {
        "NO_SUCH_SESSION" => unlink::no_such_session(session),
        "REPLACE_CONFIRMATION_REQUIRED" => ExitError::failed(format!(
            "{old} is linked, and nothing was changed; link {} in its place with --replace",
            phone.masked()
        )),
        "ALREADY_LINKED" => ExitError::failed(format!(
            "{old} is linked already, and nothing needs to be done; --replace links it anew"
        )),
        "LINKING_IN_PROGRESS" => ExitError::failed(
            "a phone has taken the code already, and the linking goes on; see `hairpin status`",
        ),
        "CODE_NOT_AVAILABLE" => {
            ExitError::failed(format!("{} The page shows it.", failure.message))
        }
        "CANCELLED" => ended("cancelled"),
        _ => reach::refused(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phone() -> Phone {
        Phone::parse("+79001234567", Country::parse("RU").expect("a country")).expect("a number")
    }

    #[test]
    fn the_question_names_both_numbers_masked() {
        let question = question(Some("79007***321"), &phone());
        assert_eq!(
            question,
            "79007***321 is linked. Replace the link of 79007***321 by one of 79001***567? [y/N] "
        );
    }

    #[test]
    fn only_a_yes_is_a_yes() {
        for yes in ["y", "Y", " yes ", "да", "Д"] {
            assert!(is_yes(yes), "{yes}");
        }
        for no in ["", "n", "no", "нет", "yep", "yes please", "1"] {
            assert!(!is_yes(no), "{no}");
        }
    }

    #[test]
    fn numbers_are_read_before_anybody_is_asked() {
        let russia = Country::parse("RU").expect("a country");
        let read = number(Some("8 900 123-45-67"), None, russia).expect("a number");
        assert_eq!(read.digits(), "79001234567");
        let read = number(Some("07400 123456"), Some("GB"), russia).expect("a number");
        assert_eq!(read.digits(), "447400123456");
        for (given, country) in [("123", None), ("89001234567", Some("XX")), ("", None)] {
            let error = number(Some(given), country, russia).expect_err("refused");
            assert_eq!(error.code, 2);
            assert!(!error.message.contains('\n'));
        }
    }

    #[test]
    fn every_end_has_one_line_with_a_mend() {
        for reason in [
            "expired",
            "cancelled",
            "superseded",
            "refresh",
            "attempts",
            "failed",
        ] {
            let error = ended(reason);
            assert_eq!(error.code, 1);
            assert!(!error.message.contains("is over ("), "{reason}");
        }
        assert!(ended("something new").message.contains("something new"));
    }
}
