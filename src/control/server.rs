//! Owns the appliance's side of the control socket: who is let in, what each request is answered, and the end.
//! A terminal that stalls or says too much is left; it never holds up the appliance.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::link::{self, Wish};
use super::socket::{self, BindError, Place};
use super::wire::{self, Answer, Ask, Failure, LONGEST_REQUEST, Lines, NoLine, NoRequest, Word};
use crate::access::Access;
use crate::error::Code;
use crate::exit::ExitError;
use crate::session::{Asker, By, RequestError};
use crate::store::{BackupKey, Store, WrappingKey};
use crate::web;
use crate::words::{self, Lang};

/// Terminals at once: more than anybody has open, and a bound on what they may hold.
const MOST: usize = 32;
/// How long a terminal may take to say what it wants.
const ASKING: Duration = Duration::from_secs(5);
/// How long a line may wait for a terminal that reads nothing.
const STALL: Duration = Duration::from_secs(10);
/// How long the end may wait for the last answers.
const FAREWELL: Duration = Duration::from_secs(1);
/// A pause after the system refused to give out a connection.
const PAUSE: Duration = Duration::from_millis(100);
/// Entries of the journal: all that it keeps.
const AUDIT: usize = 10_000;
/// Bytes of a backup in one line; in base64 they fit into any.
const PIECE: usize = 32 * 1024;
/// How far back an unlinking is looked for in the journal.
const RECENT: usize = 20;

/// The store, or why it cannot be used now.
pub type OpenStore = Box<dyn Fn() -> Result<Store, ExitError> + Send + Sync>;

/// What the terminal may reach.
pub struct House {
    /// The sessions.
    pub sessions: Arc<dyn web::Sessions>,
    /// The access key.
    pub access: Arc<Access>,
    /// The store.
    pub store: OpenStore,
    /// The key that systemd gives, if it gives one.
    pub credential: Option<WrappingKey>,
    /// How long after a code was taken off the screen it may still link.
    pub grace: Duration,
}

/// The bound control socket: nobody else can have its place, and whoever connects waits until it is served.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    place: Place,
}

/// Binds the control socket.
///
/// # Errors
/// Why there can be none.
pub fn bind(path: &Path) -> Result<Socket, BindError> {
    let (listener, place) = socket::bind(path)?;
    Ok(Socket { listener, place })
}

impl Socket {
    /// Serves whoever connects.
    #[must_use]
    pub fn serve(self, house: House) -> Server {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(serve(self.listener, Arc::new(house), stopped));
        Server {
            stop,
            task: AbortOnDropHandle::new(task),
            place: self.place,
        }
    }
}

/// The served control socket. Dropping it ends it at once.
pub struct Server {
    stop: watch::Sender<bool>,
    task: AbortOnDropHandle<()>,
    place: Place,
}

impl Server {
    /// Removes the socket, tells every terminal, and waits a moment for each.
    pub async fn stop(self) {
        drop(self.place);
        // Nobody listens once the task is gone.
        let _ = self.stop.send(true);
        if let Err(error) = self.task.await {
            warn!(%error, "the control socket's task ended badly");
        }
    }
}

async fn serve(listener: UnixListener, house: Arc<House>, mut stop: watch::Receiver<bool>) {
    let mut talks = Talks {
        house,
        room: Arc::new(Semaphore::new(MOST)),
        under_way: JoinSet::new(),
    };
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            // What ended is not kept.
            Some(_) = talks.under_way.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => talks.begin(Talk::new(stream, stop.clone())),
            Err(error) => {
                debug!(%error, "the control socket gave no connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    // Whoever stood in the queue is told of the end too. Nobody can join it: the socket's name is gone.
    if let Ok(listener) = listener.into_std() {
        while let Ok((stream, _)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = UnixStream::from_std(stream)
            {
                talks.begin(Talk::new(stream, stop.clone()));
            }
        }
    }
    let last = async { while talks.under_way.join_next().await.is_some() {} };
    // Whoever does not listen is left without.
    let _ = tokio::time::timeout(FAREWELL, last).await;
}

/// The terminals that are connected.
struct Talks {
    house: Arc<House>,
    room: Arc<Semaphore>,
    under_way: JoinSet<()>,
}

impl Talks {
    /// Serves one more, or tells it why not.
    fn begin(&mut self, mut talk: Talk) {
        let refusal = if let Some(user) = talk.stranger() {
            warn!(user, "another user tried the control socket");
            failure(
                Code::Unauthorized,
                "only root and the appliance's own user may use the control socket",
            )
        } else if let Ok(place) = Arc::clone(&self.room).try_acquire_owned() {
            let house = Arc::clone(&self.house);
            self.under_way.spawn(async move {
                // Whoever is gone needs no answer.
                let _ = converse(&house, talk).await;
                drop(place);
            });
            return;
        } else {
            failure(
                Code::RateLimited,
                "too many terminals are connected to the appliance; close one of them",
            )
        };
        self.under_way.spawn(async move {
            let _ = talk.send(&Answer::Failed(refusal)).await;
        });
    }
}

/// The other side is gone, or does not keep to the form.
#[derive(Debug)]
pub(super) struct Gone;

/// One connection.
pub(super) struct Talk {
    lines: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
    pub(super) stop: watch::Receiver<bool>,
}

impl Talk {
    fn new(stream: UnixStream, stop: watch::Receiver<bool>) -> Self {
        let (read, write) = stream.into_split();
        Self {
            lines: Lines::new(BufReader::new(read), LONGEST_REQUEST),
            write,
            stop,
        }
    }

    /// The user id of somebody who has no business here.
    fn stranger(&self) -> Option<u32> {
        // Without credentials nobody is let in: the highest id is nobody's.
        let user = self
            .write
            .as_ref()
            .peer_cred()
            .map_or(u32::MAX, |peer| peer.uid());
        (!may(user, rustix::process::geteuid().as_raw())).then_some(user)
    }

    fn user(&self) -> Option<u32> {
        self.write.as_ref().peer_cred().ok().map(|peer| peer.uid())
    }

    /// Sends one line.
    pub(super) async fn send(&mut self, answer: &impl Serialize) -> Result<(), Gone> {
        let line = wire::line(answer);
        let sent = tokio::time::timeout(STALL, self.write.write_all(line.as_bytes()));
        match sent.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }

    /// Sends the last line.
    pub(super) async fn fail(&mut self, failure: Failure) -> Result<(), Gone> {
        self.send(&Answer::Failed(failure)).await
    }

    /// What the terminal says after its request. Dropping this loses nothing.
    pub(super) async fn word(&mut self) -> Result<Word, Gone> {
        let line = self.lines.next().await.map_err(|_| Gone)?;
        serde_json::from_slice(&line).map_err(|_| Gone)
    }
}

/// Who may speak here.
fn may(user: u32, own: u32) -> bool {
    user == 0 || user == own
}

async fn converse(house: &Arc<House>, mut talk: Talk) -> Result<(), Gone> {
    let mut stop = talk.stop.clone();
    let line = tokio::select! {
        () = stopped(&mut stop) => return talk.fail(refusal(&Code::ShuttingDown.into())).await,
        line = tokio::time::timeout(ASKING, talk.lines.next()) => line,
    };
    let line = match line {
        Ok(Ok(line)) => line,
        Ok(Err(NoLine::Over)) => return Ok(()),
        Ok(Err(NoLine::TooLong)) => {
            let text = "the request is too long for the control socket";
            return talk.fail(failure(Code::BadMessage, text)).await;
        }
        Err(_) => {
            let text = "nothing was asked for in time on the control socket";
            return talk.fail(failure(Code::BadMessage, text)).await;
        }
    };
    let ask = match wire::read_request(&line) {
        Ok(ask) => ask,
        Err(why) => return talk.fail(no_request(why)).await,
    };
    drop(line);
    // A store that cannot be used answers nothing but what it is.
    let store = match ((house.store)(), &ask) {
        (Err(fault), Ask::Status {}) => return status(house, Some(&fault), &mut talk).await,
        (_, Ask::AccessKey { rotate }) => return access_key(house, &mut talk, *rotate).await,
        (Err(fault), _) => return talk.fail(of_fault(&fault)).await,
        (Ok(store), _) => store,
    };
    match ask {
        Ask::Status {} => status(house, None, &mut talk).await,
        Ask::Audit {} => audit(house, &mut talk).await,
        Ask::Link {
            session,
            phone,
            replace,
        } => {
            let wish = Wish {
                session,
                phone,
                replace,
                asker: asker(&talk),
            };
            link::run(house, &mut talk, wish).await
        }
        Ask::Unlink { session } => unlink(house, &mut talk, &session).await,
        Ask::AccessKey { rotate } => access_key(house, &mut talk, rotate).await,
        Ask::Check {} => check(store, &mut talk).await,
        Ask::Backup { passphrase } => {
            let key = match (passphrase, &house.credential) {
                (Some(passphrase), _) => BackupKey::Passphrase(passphrase.into()),
                (None, Some(credential)) => BackupKey::Credential(credential.clone()),
                (None, None) => return talk.send(&Answer::WantsPassphrase).await,
            };
            backup(store, &mut talk, key).await
        }
    }
}

async fn status(house: &House, fault: Option<&ExitError>, talk: &mut Talk) -> Result<(), Gone> {
    for status in house.sessions.list() {
        talk.send(&Answer::Status(status.into())).await?;
    }
    match fault {
        Some(fault) => talk.fail(of_fault(fault)).await,
        None => talk.send(&Answer::End).await,
    }
}

async fn audit(house: &House, talk: &mut Talk) -> Result<(), Gone> {
    match house.sessions.audit(None, AUDIT) {
        Ok(Value::Array(entries)) => {
            for entry in entries {
                talk.send(&Answer::Entry { entry }).await?;
            }
            talk.send(&Answer::End).await
        }
        Ok(_) => talk.fail(refusal(&Code::Internal.into())).await,
        Err(error) => talk.fail(refusal(&error)).await,
    }
}

async fn unlink(house: &House, talk: &mut Talk, session: &str) -> Result<(), Gone> {
    let before = last_unlinking(house, session);
    let asker = asker(talk);
    // It goes through to its end even if the terminal leaves: `sessions` owns it.
    let mut stop = talk.stop.clone();
    let done = tokio::select! {
        done = house.sessions.unlink(session, asker) => done,
        () = stopped(&mut stop) => Err(Code::ShuttingDown.into()),
    };
    if let Err(error) = done {
        return talk.fail(refusal(&error)).await;
    }
    // The entry was committed together with the wipe: the view may be a moment behind it.
    let entry = last_unlinking(house, session).filter(|entry| Some(entry) != before.as_ref());
    let text = |entry: &Value, field: &str| entry[field].as_str().map(str::to_owned);
    let told = entry
        .as_ref()
        .and_then(|entry| text(entry, "outcome"))
        .and_then(|outcome| match outcome.as_str() {
            "told" => Some(true),
            "phone_still_lists_it" => Some(false),
            _ => None,
        });
    talk.send(&Answer::Unlinked {
        phone: entry.as_ref().and_then(|entry| text(entry, "oldPhone")),
        told,
    })
    .await
}

fn last_unlinking(house: &House, session: &str) -> Option<Value> {
    match house.sessions.audit(Some(session), RECENT) {
        Ok(Value::Array(entries)) => entries
            .into_iter()
            .find(|entry| entry["what"] == "unlinked"),
        _ => None,
    }
}

async fn access_key(house: &Arc<House>, talk: &mut Talk, rotate: bool) -> Result<(), Gone> {
    if !rotate {
        let key = house.access.key().into();
        return talk.send(&Answer::Key { key }).await;
    }
    let access = Arc::clone(&house.access);
    let key = tokio::task::spawn_blocking(move || access.rotate()).await;
    match key {
        Ok(Ok(key)) => {
            info!(user = talk.user(), "the access key was replaced");
            talk.send(&Answer::Key { key: key.into() }).await
        }
        Ok(Err(error)) => talk.fail(failure(Code::Internal, &error.to_string())).await,
        Err(_) => talk.fail(refusal(&Code::Internal.into())).await,
    }
}

async fn check(store: Store, talk: &mut Talk) -> Result<(), Gone> {
    match tokio::task::spawn_blocking(move || store.verify()).await {
        Ok(Ok(report)) => {
            let report = report.to_string();
            talk.send(&Answer::Checked { report }).await
        }
        Ok(Err(flaw)) => talk.fail(of_fault(&flaw.into())).await,
        Err(_) => talk.fail(refusal(&Code::Internal.into())).await,
    }
}

async fn backup(store: Store, talk: &mut Talk, key: BackupKey) -> Result<(), Gone> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        });
    let sealed = match tokio::task::spawn_blocking(move || store.backup(&key, now)).await {
        Ok(Ok(sealed)) => sealed,
        Ok(Err(error)) => return talk.fail(of_fault(&error.into())).await,
        Err(_) => return talk.fail(refusal(&Code::Internal.into())).await,
    };
    for piece in sealed.chunks(PIECE) {
        let bytes = BASE64_STANDARD.encode(piece);
        talk.send(&Answer::Piece { bytes }).await?;
    }
    info!(
        user = talk.user(),
        bytes = sealed.len(),
        "a backup was taken"
    );
    talk.send(&Answer::End).await
}

fn asker(talk: &Talk) -> Asker {
    let user = talk
        .user()
        .map_or_else(String::new, |user| format!(" (user {user})"));
    Asker {
        by: By::Terminal,
        user_agent: Some(format!("hairpin {}{user}", env!("CARGO_PKG_VERSION"))),
    }
}

/// Returns once the appliance is stopping.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Without a sender there is nobody left to serve for.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A refusal of the sessions, in words.
pub(super) fn refusal(error: &RequestError) -> Failure {
    Failure {
        retry_after: error.retry_after,
        old_phone: error.old_phone.clone(),
        link_id: error.link_id.clone(),
        ..failure(
            error.code,
            words::message(error.code, error.reason, Lang::En),
        )
    }
}

fn failure(code: Code, message: &str) -> Failure {
    Failure {
        exit: 1,
        code: code.as_str().to_owned(),
        message: message.to_owned(),
        retry_after: None,
        old_phone: None,
        link_id: None,
    }
}

fn of_fault(fault: &ExitError) -> Failure {
    Failure {
        exit: fault.code,
        ..failure(Code::StoreUnavailable, &fault.message)
    }
}

fn no_request(why: NoRequest) -> Failure {
    failure(
        Code::BadMessage,
        match why {
            NoRequest::Version => {
                "the running appliance is of another version than this program; restart it"
            }
            NoRequest::Unknown => {
                "the running appliance knows no such request; restart it if it was updated"
            }
            NoRequest::Shape => "this is no request of the control socket",
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_own_user_may() {
        assert!(may(0, 1000) && may(1000, 1000) && may(0, 0));
        assert!(!may(1001, 1000) && !may(1000, 0) && !may(u32::MAX, 1000));
    }
}
