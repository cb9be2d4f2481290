//! Owns how a command comes to its answer: from the running appliance, or else from the store itself.

use std::time::{Duration, Instant};

use crate::app;
use crate::config::Settings;
use crate::control::{self, Answer, Ask, CallError, Conversation, Failure, TalkError};
use crate::exit::ExitError;
use crate::store::{Hold, OpenError, Store};
use crate::upkeep;

/// How long an appliance may take over a line of its answer.
const ANSWER: Duration = Duration::from_secs(10);
/// The same where it reads the whole store first.
const LONG_ANSWER: Duration = Duration::from_mins(5);
/// How long an appliance that has its store may take until it answers: it is starting, or about to let go.
const STARTING: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

/// Runs a command on this thread.
pub(super) fn block_on<T>(
    work: impl Future<Output = Result<T, ExitError>>,
) -> Result<T, ExitError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ExitError::failed(format!("the program cannot start: {error}")))?
        .block_on(work)
}

/// Where an answer comes from.
pub(super) enum Reached<T> {
    /// The appliance has answered all of this; the last line may be a failure.
    Appliance(Vec<Answer>),
    /// None runs, and this is what was found instead.
    Without(T),
}

/// Asks the appliance, or looks into the store when none runs.
pub(super) async fn appliance_or_store(
    settings: &Settings,
    ask: &Ask,
) -> Result<Reached<Store>, ExitError> {
    let wrapping = app::wrapping_key()?;
    appliance_or(settings, ask, || {
        upkeep::quietly(|| Store::look(&settings.data_dir, wrapping.clone()))
    })
    .await
}

/// Asks the appliance, or does something else when none runs.
pub(super) async fn appliance_or<T>(
    settings: &Settings,
    ask: &Ask,
    otherwise: impl Fn() -> Result<T, OpenError>,
) -> Result<Reached<T>, ExitError> {
    let patience = Instant::now() + STARTING;
    loop {
        let mut silent = false;
        match all(settings, ask).await {
            Ok(answers) => return Ok(Reached::Appliance(answers)),
            Err(Failed::Call(CallError::NotRunning) | Failed::Talk(TalkError::Gone)) => {}
            Err(Failed::Talk(TalkError::Silent)) => silent = true,
            Err(Failed::Talk(TalkError::Strange)) => return Err(strange()),
            Err(Failed::Call(error)) => return Err(unreachable(settings, error)),
        }
        match otherwise() {
            Ok(found) => return Ok(Reached::Without(found)),
            Err(OpenError::InUse) if !silent && Instant::now() < patience => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(OpenError::InUse) => return Err(unanswered(settings)),
            Err(OpenError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ExitError::not_running(format!(
                    "the appliance is not running, and there is no store in {}; start it with `hairpin serve`, or name the right folder with --data-dir",
                    settings.data_dir.display()
                )));
            }
            Err(error) => return Err(ExitError::of_store(&settings.data_dir, &error)),
        }
    }
}

/// Asks the appliance, which has to run.
pub(super) async fn appliance(settings: &Settings, ask: &Ask) -> Result<Conversation, ExitError> {
    let patience = Instant::now() + STARTING;
    loop {
        match control::call(&settings.control_socket, ask).await {
            Ok(conversation) => return Ok(conversation),
            Err(CallError::NotRunning) => {}
            Err(error) => return Err(unreachable(settings, error)),
        }
        let used = matches!(Hold::on(&settings.data_dir), Err(OpenError::InUse));
        if !used {
            return Err(ExitError::not_running(format!(
                "the appliance is not running: nobody answers at {}; start it with `hairpin serve` or `systemctl start hairpin`",
                settings.control_socket.display()
            )));
        }
        if Instant::now() >= patience {
            return Err(ExitError::not_running(unanswered(settings).message));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

enum Failed {
    Call(CallError),
    Talk(TalkError),
}

/// All of an answer: it is read whole before anything is printed, so that a pager holds nobody up.
async fn all(settings: &Settings, ask: &Ask) -> Result<Vec<Answer>, Failed> {
    let mut conversation = control::call(&settings.control_socket, ask)
        .await
        .map_err(Failed::Call)?;
    let patience = match ask {
        Ask::Check {} | Ask::Backup { .. } => LONG_ANSWER,
        _ => ANSWER,
    };
    let mut answers = Vec::new();
    loop {
        let answer = conversation
            .next_within(patience)
            .await
            .map_err(Failed::Talk)?;
        let last = !matches!(
            answer,
            Answer::Status(_) | Answer::Entry { .. } | Answer::Piece { .. }
        );
        answers.push(answer);
        if last {
            return Ok(answers);
        }
    }
}

/// A refusal of the appliance.
pub(super) fn refused(failure: &Failure) -> ExitError {
    let mut message = failure.message.clone();
    if let Some(seconds) = failure.retry_after {
        message = format!(
            "{message} It is worth trying again in {}.",
            super::term::span(seconds)
        );
    }
    ExitError {
        code: failure.exit,
        message,
    }
}

/// An answer that nobody understands.
pub(super) fn strange() -> ExitError {
    ExitError::failed(
        "the running appliance answers in a way this program does not know; restart it if it was updated",
    )
}

/// An appliance that went away in the middle of its answer.
pub(super) fn gone() -> ExitError {
    ExitError::failed("the appliance stopped before it had answered; look at its log")
}

/// An appliance that says nothing.
pub(super) fn silent(settings: &Settings) -> ExitError {
    ExitError::failed(format!(
        "the appliance at {} does not answer; look at its log, or restart it",
        settings.control_socket.display()
    ))
}

fn unanswered(settings: &Settings) -> ExitError {
    ExitError::in_use(format!(
        "the store in {} is in use by {}, which does not answer at {}; it is starting or stopping, or its control_socket is another",
        settings.data_dir.display(),
        app::holder(&settings.data_dir),
        settings.control_socket.display()
    ))
}

fn unreachable(settings: &Settings, error: CallError) -> ExitError {
    let path = settings.control_socket.display();
    match error {
        CallError::Forbidden => ExitError::failed(format!(
            "the control socket {path} is another user's; run this as root, or as the user the appliance runs as"
        )),
        CallError::Io(error) => {
            ExitError::failed(format!("the control socket {path} cannot be used: {error}"))
        }
        CallError::NotRunning => {
            ExitError::not_running(format!("nobody answers at {path}; start the appliance"))
        }
    }
}
