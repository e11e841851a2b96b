use super::*;
use crate::conformance::{self, Batches, Model, Subject};

struct Simulated {
    place: SimPlace,
    options: SimOptions,
}

impl Subject for Simulated {
    type Store = SimStore;

    fn open(&mut self) -> SimStore {
        self.place.open(self.options).unwrap().0
    }

    fn wait(&mut self, store: &mut SimStore, ticket: Ticket) {
        store.settle();
        assert_eq!(store.progress().durable, ticket);
    }

    fn close(&mut self, store: SimStore) {
        // Everything there is to maintain, so that the next life starts from the index.
        for _ in 0..1000 {
            store.settle();
            if !store.step_maintain() {
                break;
            }
        }
        assert_eq!(store.take_notices(), []);
        store.close();
    }
}

#[test]
fn the_simulated_engine_keeps_the_contract() {
    for segment_bytes in [4 << 10, 64 << 10] {
        let options = SimOptions { segment_bytes, ..SimOptions::default() };
        conformance::all(|| Simulated { place: SimPlace::default(), options });
    }
}

/// What one seed of the crash test saw.
#[derive(Debug, Default)]
struct Seen {
    crashes: u64,
    torn: u64,
    rebuilt: u64,
    dropped_batches: u64,
    carried: u64,
}

/// Random batches, steps and crashes; after each crash the store holds what was durable, and of the rest a beginning.
fn live_through(seed: u64, options: SimOptions, seen: &mut Seen) -> Result<(), String> {
    let mut random = Random::new(seed);
    let mut batches = Batches::new(seed ^ 0xabcd);
    batches.record_max = [100, 1000, 6000][random.below(3) as usize];
    let mut place = SimPlace::default();
    let (mut store, _) = place.open(options).map_err(|error| error.to_string())?;
    // Models after each batch since the last durable one; the first is the durable state.
    let mut states = vec![(Ticket(0), Model::default())];
    for step in 0..160 {
        let Some((_, last)) = states.last() else { return Err("no state".to_owned()) };
        match random.below(12) {
            0..=3 if states.len() < 6 => {
                let batch = batches.next(last);
                let mut model = last.clone();
                model.apply(&batch);
                states.push((store.commit(batch), model));
            }
            4 | 5 => drop(store.step_write()),
            6 | 7 => drop(store.step_sync()),
            8 => {
                let rounds = random.below(12);
                for _ in 0..rounds {
                    store.settle();
                    store.step_maintain();
                }
            }
            9 => drop(store.step_maintain()),
            10 => last.compare(&store.reader()).map_err(|error| format!("step {step}: {error}"))?,
            11 if random.one_in(2) => {
                let durable = store.progress().durable;
                seen.carried += store.carried_bytes();
                seen.crashes += 1;
                place = store.crash(&mut random);
                match random.below(6) {
                    0 => place.delete_index(),
                    1 => place.lose_of_index(10, &mut random),
                    _ => {}
                }
                let (opened, report) = place.open(options).map_err(|error| format!("step {step}: {error}"))?;
                store = opened;
                seen.torn += u64::from(report.torn.is_some());
                seen.rebuilt += u64::from(report.index_rebuilt.is_some());
                states.retain(|(ticket, _)| *ticket >= durable);
                let mut told = Ok(());
                let found = states.iter().rposition(|(_, model)| {
                    let compared = model.compare(&store.reader());
                    let same = compared.is_ok();
                    told = compared;
                    same
                });
                let Some(found) = found else { return Err(format!("step {step}, crash: {told:?}")) };
                seen.dropped_batches += (states.len() - 1 - found) as u64;
                let (_, model) = states.swap_remove(found);
                states = vec![(Ticket(0), model)];
            }
            _ => {}
        }
        let durable = store.progress().durable;
        states.retain(|(ticket, _)| *ticket >= durable);
        for notice in store.take_notices() {
            return Err(format!("step {step}: {notice:?}"));
        }
    }
    let Some((_, last)) = states.last() else { return Err("no state".to_owned()) };
    last.compare(&store.reader())
}

#[test]
fn whatever_was_durable_survives_thousands_of_crashes() {
    let mut seen = Seen::default();
    let first = std::env::var("MARTLET_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = first.map_or(0..1200, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let segment_bytes = [4 << 10, 16 << 10, 64 << 10][(seed % 3) as usize];
        let options = SimOptions { segment_bytes, slack_segments: seed % 2, ..SimOptions::default() };
        if let Err(error) = live_through(seed, options, &mut seen) {
            panic!("MARTLET_SEED={seed}: {error}");
        }
    }
    println!("{seen:?}");
    if first.is_none() {
        assert!(seen.crashes > 5000 && seen.torn > 100 && seen.rebuilt > 500, "{seen:?}");
        assert!(seen.dropped_batches > 500 && seen.carried > 0, "{seen:?}");
    }
}

/// The first seed in which a broken build is noticed.
fn noticed(options: SimOptions) -> Option<(u64, String)> {
    (0..300).find_map(|seed| live_through(seed, options, &mut Seen::default()).err().map(|error| (seed, error)))
}

#[test]
fn broken_builds_are_noticed() {
    let sound = SimOptions { segment_bytes: 4 << 10, slack_segments: 0, ..SimOptions::default() };
    for (name, options) in [
        ("release_before_sync", SimOptions { release_before_sync: true, ..sound }),
        ("delete_segment_too_early", SimOptions { delete_segment_too_early: true, ..sound }),
        ("lossy_index", SimOptions { lossy_index: 10, ..sound }),
    ] {
        let (seed, error) = noticed(options).unwrap_or_else(|| panic!("{name} goes unnoticed"));
        println!("{name}: seed {seed}: {}", &error[..error.len().min(200)]);
    }
}
