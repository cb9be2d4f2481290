//! Power cuts below the file system: what had been acknowledged by then is there, and no key of a link that was wiped.
//! Each time the disk is mounted as after a restart, and the program itself opens the store.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hairpin::store::{Options, Store};
use hairpin_sim::{Sim, SimConfig};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::logged_disk::{Watched, cut, entries, in_namespaces, place};
use crate::process::{Serve, run, whole};
use crate::rig::{ANNA, BORIS};
use crate::store_crash::{self, Unwanted, check_keys, epochs_held, epochs_wanted};
use crate::store_kill::{Worker, rename_until_killed, seen_in};
use crate::store_model::{self, State, difference, look, next_ops, write_devices};

/// So often is the process killed, and started again.
const LIVES: usize = 4;
/// It is killed after half as many operations at the least, and this at the most.
const LONGEST: usize = 400;
const ROOMS: usize = 3;
const REPLACEMENTS: usize = 30;

/// That no block anywhere on a disk, in the key file or left behind by one, holds a key that nobody wants; but for the
/// spare, and for what so many operations that were under way may leave.
fn keys_on(disk: &[u8], wanted: &BTreeSet<u64>, under_way: usize) -> Result<(), String> {
    let left = Unwanted::among(&epochs_held(disk), wanted)?;
    if left.stale > under_way || left.stale + left.later > 1 + under_way {
        return Err(format!(
            "on the disk is {left:?}, with {under_way} under way"
        ));
    }
    Ok(())
}

/// What the program itself says of a store.
fn checked(home: &Path, data: &Path) -> Result<(), String> {
    let data = data.to_str().expect("text");
    let said = run(&["check", "--data-dir", data], home);
    if said.status.success() {
        Ok(())
    } else {
        let why = String::from_utf8_lossy(&said.stderr).into_owned();
        Err(format!("hairpin check: {why}"))
    }
}

// ---- random operations ----------------------------------------------------------------------

/// What a process did to a store until it was killed, several times over.
struct Work {
    /// The state after each operation; each life begins with the state it found.
    states: Vec<State>,
    /// Whether that operation wiped a link, or began one.
    wipes: Vec<bool>,
    /// After so many entries of the log: the operations that were begun and acknowledged.
    marks: Vec<(usize, usize, usize)>,
}

async fn work(watched: &Watched, random: &mut StdRng) -> Work {
    let data = watched.folder().join("var/data");
    let devices = watched.place.join("devices");
    write_devices(&devices);
    let (mut states, mut wipes, mut marks) = (Vec::new(), Vec::new(), Vec::new());
    let mut before = State::default();
    for _ in 0..LIVES {
        let seed: u64 = random.random();
        let mut worker = Worker::start(&data, &devices, seed, Some(&watched.log()));
        let enough = random.random_range(LONGEST / 2..LONGEST);
        while worker.done() < enough {
            worker.hear().expect("works until it is killed");
        }
        let heard = worker.kill();
        let first = states.len();
        let last = *heard.last().expect("it said something");
        let mut life = vec![before];
        let mut drawn = store_model::random(seed);
        wipes.push(false);
        while life.len() <= last.begun {
            for op in next_ops(&mut drawn, &mut life) {
                wipes.push(op.wipes().is_some());
            }
        }
        marks.extend(
            heard
                .iter()
                .map(|heard| (heard.logged, first + heard.begun, first + heard.done)),
        );
        (before, _) = seen_in(&data).await;
        assert!(
            life[last.done..=last.begun].contains(&before),
            "a kill loses something"
        );
        states.append(&mut life);
    }
    Work {
        states,
        wipes,
        marks,
    }
}

impl Work {
    /// Says what is wrong with a disk that was found at a moment.
    async fn check(&self, found: &Path, logged: usize, image: &[u8]) -> Result<(), String> {
        let data = found.join("var/data");
        let known = self.marks.partition_point(|(at, _, _)| *at <= logged);
        let (begun, done) = match known.checked_sub(1) {
            Some(last) => (self.marks[last].1, self.marks[last].2),
            None => (0, 0),
        };
        let allowed = &self.states[done..=begun];
        if !data.join("hairpin.redb").exists() {
            let is_born = known > 0;
            return if is_born {
                Err("the store is gone".to_owned())
            } else {
                Ok(())
            };
        }
        checked(found, &data)?;
        let store = Store::open(&data, Options::default()).map_err(|error| error.to_string())?;
        let seen = look(&store).await.map_err(|error| error.to_string())?;
        let wanted = epochs_wanted(&store).map_err(|error| error.to_string())?;
        store.close().await;
        if !allowed.contains(&seen) {
            let nearest = allowed.last().expect("one");
            return Err(format!("the wrong state: {}", difference(&seen, nearest)));
        }
        let coming = &self.wipes[done + 1..=begun];
        keys_on(image, &wanted, coming.iter().filter(|it| **it).count())?;
        check_keys(
            &std::fs::read(data.join("hairpin.keys")).expect("readable"),
            &wanted,
        )?;
        store_crash::whole(std::fs::read(data.join("hairpin.redb")).expect("readable"))
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and needs root, qemu-storage-daemon and mkfs.ext4: tests/run --long runs it"]
async fn a_power_cut_below_the_file_system_loses_nothing_of_random_operations() {
    const NAME: &str = "a_power_cut_below_the_file_system_loses_nothing_of_random_operations";
    let Some(place) = place() else {
        return in_namespaces(NAME);
    };
    let (seed, mut random) = store_crash::begin(7);
    let watched = Watched::mount(&place);
    let work = work(&watched, &mut random).await;
    let record = watched.end();
    println!(
        "{} acknowledged operations, {} of them wipes, {} lives, {}",
        work.states.len() - LIVES,
        work.wipes.iter().filter(|it| **it).count(),
        LIVES,
        record.told()
    );
    let cuts = (seed, &mut random);
    cut(&place, &record, cuts, async |found, logged, image| {
        work.check(found, logged, image).await
    })
    .await;
}

// ---- the program ----------------------------------------------------------------------------

/// What the program was asked for, or has answered.
#[derive(Debug, Clone, Copy)]
enum Fact {
    /// It answered that the room has this number for a name; the next one is asked for.
    Named { room: usize, name: u32 },
    /// It is asked for a code for this line.
    Asked(&'static str),
    /// It gave the code: an older link is gone.
    Coded(&'static str),
    /// It said that this line is connected.
    Connected(&'static str),
}

/// What it said, each with the length of the disk's log after it.
#[derive(Clone)]
struct Facts {
    log: PathBuf,
    all: Arc<Mutex<Vec<(usize, Fact)>>>,
}

impl Facts {
    fn note(&self, fact: Fact) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((entries(&self.log), fact));
    }
}

/// Renames rooms and replaces links by way of the program, until it is killed.
async fn serve(watched: &Watched) -> Vec<(usize, Fact)> {
    let sim = Sim::start_with(SimConfig {
        hellos_per_number: usize::MAX,
        max_devices: usize::MAX,
        ..SimConfig::default()
    })
    .await;
    let facts = Facts {
        log: watched.log(),
        all: Arc::default(),
    };
    let serve = Serve::start(&watched.folder(), &sim.url(), &[]);
    let rooms: Vec<_> = (0..ROOMS)
        .map(|room| {
            let (at, key, facts) = (serve.address, serve.key.clone(), facts.clone());
            let told = move |name| facts.note(Fact::Named { room, name });
            tokio::spawn(async move { rename_until_killed(at, &key, (room, 0), told).await })
        })
        .collect();
    for turn in 0..REPLACEMENTS {
        let line = if turn % 2 == 0 { ANNA } else { BORIS };
        facts.note(Fact::Asked(line));
        let (mut status, mut answer) = serve.code(line, None).await;
        if let (409, Some(id)) = (status, answer["linkId"].as_str()) {
            (status, answer) = serve.code(line, Some(id)).await;
        }
        assert_eq!(status, 200, "{answer}");
        facts.note(Fact::Coded(line));
        let code = answer["code"].as_str().expect("a code");
        sim.phone(line).enter_code(code).await.expect("linked");
        serve.state("CONNECTED").await;
        facts.note(Fact::Connected(line));
    }
    serve.kill();
    for room in rooms {
        room.await.expect("no panic");
    }
    let mut all = facts.all.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut all)
}

/// Says what is wrong with a disk that was found when only the given facts were known.
async fn remembers(found: &Path, facts: &[(usize, Fact)], image: &[u8]) -> Result<(), String> {
    let mut names = [0; ROOMS];
    let mut lines: Vec<Fact> = Vec::new();
    for (_, fact) in facts {
        match fact {
            Fact::Named { room, name } => names[*room] = *name,
            line => lines.push(*line),
        }
    }
    let data = found.join(".local/share/hairpin");
    if !data.join("hairpin.redb").exists() {
        let is_born = !facts.is_empty();
        return if is_born {
            Err("the store is gone".to_owned())
        } else {
            Ok(())
        };
    }
    checked(found, &data)?;
    let home = found.to_owned();
    tokio::spawn(async move { whole(&home, &mut Vec::new()).await })
        .await
        .map_err(|error| error.to_string())?;
    let store = Store::open(&data, Options::default()).map_err(|error| error.to_string())?;
    let sessions = store.sessions().map_err(|error| error.to_string())?;
    let row = store.link("salon").map_err(|error| error.to_string())?;
    let wanted = epochs_wanted(&store).map_err(|error| error.to_string())?;
    store.close().await;
    keys_on(
        image,
        &wanted,
        usize::from(matches!(lines.last(), Some(Fact::Asked(_)))),
    )?;
    for (room, answered) in names.into_iter().enumerate() {
        let id = format!("room-{room}");
        let row = sessions.iter().find(|row| row.id == id);
        let name = row.map_or(0, |row| row.name.parse().expect("a number"));
        if name < answered {
            return Err(format!(
                "room {room} is {name}, but {answered} was answered"
            ));
        }
    }
    let line = row.as_ref().map(|row| row.line.reveal());
    let is_linked = row.as_ref().is_some_and(|row| row.linked.is_some());
    let is_right = match lines[..] {
        [] => line.is_none(),
        [Fact::Asked(new)] => line.is_none_or(|line| line == new),
        [.., Fact::Connected(old), Fact::Asked(new)] => match line {
            Some(line) if line == old => is_linked,
            line => line == Some(new),
        },
        [.., Fact::Coded(new)] => line == Some(new),
        [.., Fact::Connected(new)] => line == Some(new) && is_linked,
        _ => unreachable!("in their order"),
    };
    if !is_right {
        return Err(format!("{row:?} is found after {:?}", lines.last()));
    }
    store_crash::whole(std::fs::read(data.join("hairpin.redb")).expect("readable"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and needs root, qemu-storage-daemon and mkfs.ext4: tests/run --long runs it"]
async fn a_power_cut_below_the_file_system_loses_nothing_that_the_program_has_answered() {
    const NAME: &str =
        "a_power_cut_below_the_file_system_loses_nothing_that_the_program_has_answered";
    let Some(place) = place() else {
        return in_namespaces(NAME);
    };
    let (seed, mut random) = store_crash::begin(8);
    let watched = Watched::mount(&place);
    let facts = serve(&watched).await;
    let record = watched.end();
    println!(
        "{} answers, {REPLACEMENTS} links, {}",
        facts.len(),
        record.told()
    );
    let cuts = (seed, &mut random);
    cut(&place, &record, cuts, async |found, logged, image| {
        let known = facts.partition_point(|(at, _)| *at <= logged);
        remembers(found, &facts[..known], image).await
    })
    .await;
}
