//! Owns the conversation about one code: asked for, shown, followed until it has linked or is over.
//! It follows its own code only: what happens to anybody else's is not told.

use std::time::Duration;

use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::Instant;

use super::server::{Gone, House, Talk, refusal, stopped};
use super::wire::{Answer, Failure, Replaced, Text, Word};
use crate::error::Code;
use crate::exit::ExitError;
use crate::phone::{Country, Phone};
use crate::session::{
    Asker, CodeRequest, EndReason, PairingCode, RequestError, SessionEvent, State, Status, View,
};
use crate::words::{self, Lang};

/// How long the reason of an end may come after the end, or the end after the state that follows from it.
const AFTERMATH: Duration = Duration::from_secs(2);

/// A request for a code, from a terminal.
pub(super) struct Wish {
    pub(super) session: String,
    pub(super) phone: Text,
    pub(super) replace: Option<String>,
    pub(super) asker: Asker,
}

/// Asks, shows, follows; the last line is sent when this returns.
pub(super) async fn run(house: &House, talk: &mut Talk, wish: Wish) -> Result<(), Gone> {
    // With its `+` a number is read without a country; this one is never used.
    let Ok(phone) = Country::parse("RU").and_then(|any| Phone::parse(wish.phone.reveal(), any))
    else {
        return talk.fail(bad_number()).await;
    };
    let request = CodeRequest {
        phone,
        replace: wish.replace,
        asker: wish.asker.clone(),
    };
    match ask(house, talk, &wish.session, request).await? {
        Err(error) => talk.fail(refusal(&error)).await,
        Ok(code) => {
            let follow = Follow {
                house,
                session: wish.session,
                asker: wish.asker,
                code,
                stage: Stage::Open,
                error: None,
                seen: None,
            };
            follow.run(talk).await
        }
    }
}

fn bad_number() -> Failure {
    let fault = ExitError::wrong_use(words::message(Code::InvalidPhoneFormat, None, Lang::En));
    Failure {
        exit: fault.code,
        message: fault.message,
        ..refusal(&Code::InvalidPhoneFormat.into())
    }
}

/// Waits for the code, and says meanwhile how it goes.
async fn ask(
    house: &House,
    talk: &mut Talk,
    session: &str,
    request: CodeRequest,
) -> Result<Result<PairingCode, RequestError>, Gone> {
    let Some((view, mut events)) = house.sessions.subscribe(session) else {
        return Ok(Err(Code::NoSuchSession.into()));
    };
    talk.send(&Answer::Status(view.status.into())).await?;
    let asker = request.asker.clone();
    let mut answer = house.sessions.request_code(session, request);
    let mut stop = talk.stop.clone();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => return Ok(Err(Code::ShuttingDown.into())),
            event = events.recv() => match event {
                Ok(SessionEvent::Status(status)) => talk.send(&Answer::Status(status.into())).await?,
                Ok(SessionEvent::Removed) | Err(RecvError::Closed) => {
                    return Ok(Err(Code::NoSuchSession.into()));
                }
                // Of another request, or of none.
                Ok(_) | Err(RecvError::Lagged(_)) => {}
            },
            answer = &mut answer => return Ok(answer),
            word = talk.word() => match word? {
                // The request answers for itself that it was cancelled.
                Word::Cancel => if let Err(error) = house.sessions.cancel(session, asker.clone()).await {
                    return Ok(Err(error));
                },
            },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The code is there, or the phone is linking with it.
    Open,
    /// Nobody is shown it any more, but a phone that was quick enough still links.
    Grace(Instant),
    /// It is over; why may still be told.
    Over(Option<EndReason>, Instant),
}

struct Follow<'a> {
    house: &'a House,
    session: String,
    asker: Asker,
    code: PairingCode,
    stage: Stage,
    /// What went wrong.
    error: Option<RequestError>,
    seen: Option<Status>,
}

/// How it ended.
enum End {
    As(EndReason),
    Failed(RequestError),
}

impl Follow<'_> {
    async fn run(mut self, talk: &mut Talk) -> Result<(), Gone> {
        // Subscribed after the answer: no end of an older code is taken for the end of this one.
        let Some((view, mut events)) = self.house.sessions.subscribe(&self.session) else {
            return talk.fail(refusal(&Code::NoSuchSession.into())).await;
        };
        let expires_in = match &view.code {
            Some(live) if live.code == self.code.code => live.expires_in(),
            _ => self.code.expires_in(),
        };
        talk.send(&Answer::Code {
            code: self.code.code.clone().into(),
            phone: self.code.phone_number.clone(),
            expires_in,
            replaced: self.code.replaced.as_ref().map(|replaced| Replaced {
                old_phone: replaced.old_phone.clone(),
                was_linked: replaced.was_linked,
            }),
        })
        .await?;
        let mut ended = self.looked(talk, view).await?;
        let mut stop = talk.stop.clone();
        loop {
            if let Some(end) = ended {
                return match end {
                    End::As(reason) => talk.send(&ended_as(reason)).await,
                    End::Failed(error) => talk.fail(refusal(&error)).await,
                };
            }
            ended = tokio::select! {
                biased;
                () = stopped(&mut stop) => Some(End::Failed(Code::ShuttingDown.into())),
                event = events.recv() => match event {
                    Ok(SessionEvent::Status(status)) => self.status(talk, status).await?,
                    Ok(event) => self.event(event),
                    Err(RecvError::Lagged(_)) => self.look_again(talk, &mut events).await?,
                    Err(RecvError::Closed) => Some(End::Failed(Code::NoSuchSession.into())),
                },
                () = until(self.stage) => Some(self.given_up()),
                word = talk.word() => match word? {
                    Word::Cancel => self.cancel().await,
                },
            };
        }
    }

    async fn look_again(
        &mut self,
        talk: &mut Talk,
        events: &mut broadcast::Receiver<SessionEvent>,
    ) -> Result<Option<End>, Gone> {
        let Some((view, again)) = self.house.sessions.subscribe(&self.session) else {
            return Ok(Some(End::Failed(Code::NoSuchSession.into())));
        };
        *events = again;
        self.looked(talk, view).await
    }

    async fn looked(&mut self, talk: &mut Talk, view: View) -> Result<Option<End>, Gone> {
        if view
            .code
            .as_ref()
            .is_some_and(|live| live.code != self.code.code)
        {
            return Ok(Some(End::As(EndReason::Superseded)));
        }
        self.status(talk, view.status).await
    }

    /// What the session's state says about the code. The end itself may be told before it or after it.
    async fn status(&mut self, talk: &mut Talk, status: Status) -> Result<Option<End>, Gone> {
        let state = status.state;
        if self.seen.as_ref() != Some(&status) {
            talk.send(&Answer::Status(status.clone().into())).await?;
        }
        self.seen = Some(status);
        let over = |reason| Stage::Over(reason, Instant::now() + AFTERMATH);
        match (self.stage, state) {
            (Stage::Open, State::AwaitingCodeEntry | State::Linking) => {}
            (Stage::Open, _) => self.stage = over(None),
            (Stage::Grace(_), State::Linking) => self.stage = Stage::Open,
            (Stage::Grace(_), State::Unlinked) => {}
            (Stage::Grace(_), _) => self.stage = over(Some(EndReason::Expired)),
            (Stage::Over(Some(EndReason::Linked), _), state) if state != State::Linking => {
                return Ok(Some(End::As(EndReason::Linked)));
            }
            (Stage::Over(..), _) => {}
        }
        Ok(None)
    }

    fn event(&mut self, event: SessionEvent) -> Option<End> {
        let over = |reason| Stage::Over(Some(reason), Instant::now() + AFTERMATH);
        match event {
            SessionEvent::Code(code) if code.code != self.code.code => {
                return Some(match self.stage {
                    Stage::Open | Stage::Over(None, _) => End::As(EndReason::Superseded),
                    Stage::Grace(_) => End::As(EndReason::Expired),
                    Stage::Over(Some(reason), _) => End::As(reason),
                });
            }
            SessionEvent::CodeEnded(EndReason::Expired) => {
                self.stage = Stage::Grace(Instant::now() + self.house.grace);
            }
            SessionEvent::CodeEnded(EndReason::Linked) => {
                // The state that follows from it says whether the link is up.
                match &self.seen {
                    Some(seen) if seen.state != State::Linking => {
                        return Some(End::As(EndReason::Linked));
                    }
                    _ => self.stage = over(EndReason::Linked),
                }
            }
            SessionEvent::CodeEnded(EndReason::Failed) => match self.error.take() {
                Some(error) => return Some(End::Failed(error)),
                None => self.stage = over(EndReason::Failed),
            },
            SessionEvent::CodeEnded(reason) => return Some(End::As(reason)),
            SessionEvent::Error(error) => match self.stage {
                Stage::Over(Some(_), _) => return Some(End::Failed(error)),
                _ => self.error = Some(error),
            },
            SessionEvent::Removed => return Some(End::Failed(Code::NoSuchSession.into())),
            SessionEvent::Code(_) | SessionEvent::Status(_) | SessionEvent::Qr(_) => {}
        }
        None
    }

    /// Ends the code for everybody, as the person at the terminal wishes.
    async fn cancel(&mut self) -> Option<End> {
        if matches!(self.stage, Stage::Over(..)) {
            // It is being told already how it ended.
            return None;
        }
        match self
            .house
            .sessions
            .cancel(&self.session, self.asker.clone())
            .await
        {
            Err(error) => Some(End::Failed(error)),
            // A code that nobody is shown any more ends in silence.
            Ok(()) if matches!(self.stage, Stage::Grace(_)) => Some(End::As(EndReason::Cancelled)),
            Ok(()) => None,
        }
    }

    /// Nothing more was told in time.
    fn given_up(&mut self) -> End {
        if let Some(error) = self.error.take() {
            return End::Failed(error);
        }
        let seen = self.seen.as_ref();
        match self.stage {
            Stage::Open | Stage::Grace(_) => End::As(EndReason::Expired),
            Stage::Over(Some(EndReason::Failed) | None, _) => match seen {
                Some(seen) if seen.state == State::Connected => End::As(EndReason::Linked),
                Some(Status {
                    reason: Some(code), ..
                }) => End::Failed((*code).into()),
                _ => End::As(EndReason::Failed),
            },
            Stage::Over(Some(reason), _) => End::As(reason),
        }
    }
}

async fn until(stage: Stage) {
    match stage {
        Stage::Open => std::future::pending().await,
        Stage::Grace(moment) | Stage::Over(_, moment) => tokio::time::sleep_until(moment).await,
    }
}

fn ended_as(reason: EndReason) -> Answer {
    let reason = match reason {
        EndReason::Expired => "expired",
        EndReason::Cancelled => "cancelled",
        EndReason::Superseded => "superseded",
        EndReason::Refresh => "refresh",
        EndReason::Attempts => "attempts",
        EndReason::Failed => "failed",
        EndReason::Linked => "linked",
    };
    Answer::Ended {
        reason: reason.to_owned(),
    }
}
