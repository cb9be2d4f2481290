//! Owns every method of upstream's store traits as a call that can be drawn at random and made on any backend.
//! The lists are checked against the traits' own source: a method that is missing here fails a test.

mod app_sync;
mod device;
mod msg_secret;
mod protocol;
mod signal;

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use whatsapp_rust::traits::Backend;
use whatsapp_rust::wacore::store::error::StoreError;

/// What a backend says, in one form for all of them: lists are sorted, for their order means nothing.
pub type Answer = Result<String, StoreError>;
type Run = Box<dyn Fn(Arc<dyn Backend>) -> BoxFuture<'static, Answer> + Send + Sync>;

/// One method of a trait.
pub struct Method {
    pub name: &'static str,
    draw: fn(&mut Draw) -> (String, Run),
}

impl Method {
    /// A call of it with arguments drawn at random.
    pub fn draw(&self, draw: &mut Draw) -> Call {
        let (arguments, run) = (self.draw)(draw);
        Call {
            name: self.name,
            arguments,
            run,
        }
    }
}

/// A method with its arguments; can be made any number of times.
pub struct Call {
    pub name: &'static str,
    pub arguments: String,
    run: Run,
}

impl Call {
    pub async fn make(&self, backend: &Arc<dyn Backend>) -> Answer {
        (self.run)(Arc::clone(backend)).await
    }
}

/// One of upstream's store traits.
pub struct Trait {
    pub name: &'static str,
    pub methods: Vec<Method>,
}

impl Trait {
    pub fn any(&self, draw: &mut Draw) -> Call {
        let at = draw.below(self.methods.len());
        self.methods[at].draw(draw)
    }
}

/// All of them.
pub fn traits() -> [Trait; 5] {
    [
        signal::methods(),
        app_sync::methods(),
        protocol::methods(),
        msg_secret::methods(),
        device::methods(),
    ]
}

pub fn one(name: &str) -> Trait {
    traits()
        .into_iter()
        .find(|store| store.name == name)
        .expect("a known trait")
}

fn shown<T: Debug>(result: Result<T, StoreError>) -> Answer {
    result.map(|answer| format!("{answer:?}"))
}

fn sorted<T: Ord>(rows: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut rows: Vec<T> = rows.into_iter().collect();
    rows.sort();
    rows
}

/// A trait's methods: name, arguments and how they are drawn, and the call.
macro_rules! methods {
    ($store:literal: $($name:ident($draw:ident $(; $arg:ident = $value:expr)*) |$backend:ident| $answer:expr;)*) => {
        $crate::store_calls::Trait {
            name: $store,
            methods: vec![$($crate::store_calls::Method {
                name: stringify!($name),
                draw: |$draw| {
                    $(let $arg = $value;)*
                    let parts: Vec<String> = vec![$(format!(concat!(stringify!($arg), " = {:?}"), $arg)),*];
                    let run: $crate::store_calls::Run = Box::new(move |$backend| {
                        $(let $arg = $arg.clone();)*
                        Box::pin(async move { $crate::store_calls::shown($answer) })
                    });
                    (parts.join(", "), run)
                },
            }),*],
        }
    };
}
use methods;

/// Where arguments come from: small sets, so that calls meet the rows of earlier ones.
pub struct Draw {
    rng: StdRng,
}

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
        }
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end)
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn number(&mut self, least: i64, most: i64) -> i64 {
        self.rng.random_range(least..=most)
    }

    pub fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// Up to `most` of something; rarely none.
    fn some<T>(&mut self, most: usize, mut each: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let number = if self.chance(5) {
            0
        } else {
            1 + self.below(most)
        };
        (0..number).map(|_| each(self)).collect()
    }

    fn maybe<T>(&mut self, each: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.chance(50).then(|| each(self))
    }

    /// Mostly short, sometimes empty, sometimes longer than a page.
    fn bytes(&mut self) -> Vec<u8> {
        let length = match self.below(100) {
            0..5 => 0,
            5..98 => 1 + self.below(60),
            _ => 4000 + self.below(2000),
        };
        let mut bytes = vec![0; length];
        self.rng.fill(&mut bytes[..]);
        bytes
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.fill(&mut bytes[..]);
        bytes
    }

    /// One of a few names of 32 bytes.
    fn known(&mut self) -> [u8; 32] {
        let mut name = [0; 32];
        name[0] = u8::try_from(self.below(12)).expect("small");
        name[31] = 7;
        name
    }

    /// The user part of an address; some are the beginning of others.
    fn user(&mut self) -> String {
        self.pick(&[
            "79001234567",
            "7900123456",
            "79001234568",
            "5511987654321",
            "100000012345678",
            "10000001234567",
        ])
        .to_owned()
    }

    /// A Signal address as upstream writes them: `user@server`, `user:device@server`.
    fn address(&mut self) -> String {
        let (user, server) = (self.user(), self.pick(&["c.us", "lid"]));
        match self.below(4) {
            0 => format!("{user}@{server}"),
            device => format!("{user}:{device}@{server}"),
        }
    }

    fn jid(&mut self) -> String {
        format!("{}@{}", self.user(), self.pick(&["s.whatsapp.net", "lid"]))
    }

    fn device_jid(&mut self) -> String {
        format!("{}:{}@lid", self.user(), self.below(4))
    }

    fn group(&mut self) -> String {
        self.pick(&[
            "120363000000000001@g.us",
            "120363000000000002@g.us",
            "120363000000000003@g.us",
        ])
        .to_owned()
    }

    fn message(&mut self) -> String {
        self.pick(&["3EB0AA01", "3EB0AA02", "3EB0AA03", "3EB0AA"])
            .to_owned()
    }

    /// A moment that others will compare with; rarely an outermost one.
    fn moment(&mut self) -> i64 {
        match self.below(100) {
            0 => i64::MAX,
            1 => i64::MIN,
            2..5 => -self.number(0, 20),
            _ => self.number(0, 60),
        }
    }

    /// Around the present second: what was stored in the last few may or may not be older.
    fn recent(&mut self) -> i64 {
        whatsapp_rust::wacore::time::now_secs() + self.number(-3, 1)
    }
}
