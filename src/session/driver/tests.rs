//! What becomes of a job that breaks: everything else stays as it was, and whoever waits is told.

use super::*;
use crate::link::{Connector, Versions};
use crate::metrics::Metrics;
use crate::phone::{Country, Phone};
use crate::session::jobs::Turn;
use crate::session::{By, State};
use crate::store::{Linked, NewLink, Options, Store};

/// Longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn phone(number: &str) -> Phone {
    Phone::parse(number, Country::parse("RU").expect("RU")).expect("a number")
}

/// The session of a stored link, over a WhatsApp that nobody serves.
async fn linked(store: &Store) -> Driver {
    let anna = phone("79001234567");
    store.put_session("salon", "Salon", 10).await.expect("put");
    let next = NewLink {
        line: anna.line_key(),
        intended: anna.digits().into(),
        now: 10,
    };
    let wiped = store.replace_link("salon", None, Some(next), Vec::new());
    let row = wiped.await.expect("opened").link.expect("a link");
    let change = Box::new(|row: &mut LinkRow| {
        row.linked = Some(Linked {
            at: 20,
            phone: "79001234567".into(),
            jid: "79001234567:1@s.whatsapp.net".into(),
            lid: None,
        });
    });
    let changed = store.update_link("salon", row.epoch, change, Vec::new());
    changed.await.expect("changed");
    Driver::new(
        Tools {
            session: "salon".into(),
            store: store.clone(),
            connector: Connector::new(Some("ws://127.0.0.1:1/".into()), Versions::new(None)),
            metrics: Arc::new(Metrics::new()),
            probe_within: Duration::from_secs(5),
            turn: Turn::default(),
        },
        Limits {
            code_ttl: Duration::from_mins(3),
            code_grace: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(20),
        },
        0,
        Shown {
            view: watch::Sender::new(first_view("salon", "Salon", 10)),
            events: broadcast::channel(64).0,
            removed: Arc::default(),
        },
    )
}

impl Driver {
    /// Goes on until its jobs have come so far.
    async fn jobs_until(&mut self, enough: impl Fn(&Self) -> bool) {
        let go_on = async {
            while !enough(self) {
                let done = self.jobs.join_next_with_id().await.expect("a job");
                if let Some(input) = self.done(done) {
                    self.feed(input).await;
                }
            }
        };
        tokio::time::timeout(PATIENCE, go_on)
            .await
            .expect("in time");
    }

    async fn ask(&mut self, replace: &str) -> oneshot::Receiver<Result<PairingCode, RequestError>> {
        let (reply, answer) = oneshot::channel();
        let request = CodeRequest {
            phone: phone("79007654321"),
            replace: Some(replace.to_owned()),
            asker: Asker {
                by: By::Api,
                user_agent: None,
            },
        };
        self.command(Command::Ask(request, reply)).await;
        answer
    }

    fn asks_whatsapp(&self) -> bool {
        self.running
            .values()
            .any(|running| running.question.is_some())
    }
}

#[tokio::test]
async fn a_job_that_breaks_is_told_as_a_fault_of_ours_and_costs_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path(), Options::default()).expect("opened");
    let mut driver = linked(&store).await;
    driver.boot().await;
    let before = store.link("salon").expect("read").expect("a row");

    // The question whether WhatsApp answers breaks half-way.
    let mut answer = driver.ask(&before.link_id).await;
    driver.jobs_until(Driver::asks_whatsapp).await;
    let (id, running) = driver
        .running
        .extract_if(|_, running| running.question.is_some())
        .next()
        .expect("one question");
    running.question.expect("one").abort();
    let breaks = driver.jobs.spawn(async move { panic!("job {id} breaks") });
    driver.running.insert(
        breaks.id(),
        Running {
            broken: running.broken,
            question: None,
        },
    );
    driver.jobs_until(|_| !answer.is_empty()).await;
    let told = answer.try_recv().expect("told").expect_err("refused");
    assert_eq!(told.code, Code::Internal);
    let view = driver.shown.view.borrow().clone();
    assert_eq!(view.status.state, State::Reconnecting);
    assert_eq!(view.status.phone.as_deref(), Some("79001***567"));
    assert_eq!(
        store.link("salon").expect("read").expect("kept").epoch,
        before.epoch
    );

    // The session goes on: the next one is asked and answered as ever.
    let answer = driver.ask(&before.link_id).await;
    driver.jobs_until(|_| !answer.is_empty()).await;
    let told = answer.await.expect("told").expect_err("nobody there");
    assert_eq!(told.code, Code::WhatsappUnreachable);
    driver.stop().await;
    store.close().await;
}

#[tokio::test]
async fn a_session_whose_task_broke_does_not_turn_and_one_that_was_removed_is_not_missed() {
    let (commands, mailbox) = mpsc::channel(1);
    let session = crate::session::Session {
        commands,
        view: watch::Sender::new(first_view("salon", "Salon", 10)).subscribe(),
        events: broadcast::channel(1).0,
        removed: Arc::default(),
    };
    drop(mailbox);
    assert!(!session.turns().await);
    session.removed.store(true, Ordering::SeqCst);
    assert!(session.turns().await);
}
