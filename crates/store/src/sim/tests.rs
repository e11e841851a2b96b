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
    merged: u64,
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
                seen.merged += store.terms_merged();
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
        if let Some(notice) = store.take_notices().first() {
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
        assert!(seen.dropped_batches > 500 && seen.carried > 0 && seen.merged > 100, "{seen:?}");
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

fn append(store: &mut SimStore, time: i64, offset: u64, size: usize) -> Ticket {
    let op = crate::Op::Append {
        queue: QueueId(1),
        offset: QueueOffset(offset),
        record: Bytes::from(vec![offset as u8; size]),
        terms: Vec::new(),
        keep_until: crate::UnixMillis(time + 1000),
    };
    store.commit(Batch { time: crate::UnixMillis(time), ops: vec![op] })
}

fn offsets(store: &SimStore) -> Vec<u64> {
    let range = QueueOffset(0)..QueueOffset(u64::MAX);
    let read = conformance::block_on(store.reader().messages(QueueId(1), range, usize::MAX, usize::MAX));
    read.unwrap().iter().map(|message| message.offset.0).collect()
}

#[test]
fn a_failed_write_or_sync_stops_the_store_and_loses_nothing_durable() {
    for (writes, syncs) in [(true, false), (false, true)] {
        let (mut store, _) = SimPlace::default().open(SimOptions::default()).unwrap();
        append(&mut store, 1, 0, 100);
        let durable = append(&mut store, 2, 1, 100);
        store.settle();
        store.place.fail(writes, syncs, false);
        append(&mut store, 3, 2, 100);
        store.settle();
        store.place.fail(false, false, false);
        // It would work again, but what the system says after a failed sync is worth nothing.
        append(&mut store, 4, 3, 100);
        store.settle();
        let progress = store.progress();
        assert_eq!(progress.durable, durable);
        let failure = progress.failed.unwrap();
        assert_eq!(failure.operation, if writes { "write" } else { "fdatasync" });
        assert_eq!(failure.file, "0000000001.seg");
        let (store, _) = store.crash(&mut Random::new(1)).open(SimOptions::default()).unwrap();
        assert!(offsets(&store).starts_with(&[0, 1]));
    }
}

#[test]
fn a_full_disk_refuses_messages_before_the_reserve_and_takes_trims_from_it() {
    let options = SimOptions { slack_segments: 0, ..SimOptions::default() };
    let place = SimPlace::default();
    place.set_capacity(12 * u64::from(options.segment_bytes));
    let (mut store, _) = place.open(options).unwrap();
    let mut offset = 0;
    while store.room() == Room::Open {
        append(&mut store, offset as i64, offset, 1000);
        store.settle();
        store.step_maintain();
        offset += 1;
        assert!(offset < 1000, "the disk never gets full");
    }
    assert!(offset > 100);
    // Progress goes on for more than a segment's worth, and makes room.
    for round in 0..40u64 {
        let key = Bytes::from(format!("progress/{round}"));
        let put = crate::Op::Put { key, image: Bytes::from(vec![1; 500]), keep_until: None };
        store.commit(Batch { time: crate::UnixMillis(offset as i64), ops: vec![put] });
        store.settle();
        assert!(store.progress().failed.is_none(), "{:?}", store.progress());
    }
    assert_eq!(offsets(&store).len() as u64, offset);
    let trim = crate::Op::Trim { queue: QueueId(1), below: QueueOffset(offset) };
    let time = crate::UnixMillis(offset as i64 + 4_000_000);
    store.commit(Batch { time, ops: vec![trim] });
    for _ in 0..100 {
        store.settle();
        store.step_maintain();
    }
    assert_eq!(store.room(), Room::Open, "{:?} {:?}", store.usage(), store.progress());
}

#[test]
fn the_scrub_finds_a_flipped_bit_and_reading_names_it() {
    let (mut store, _) = SimPlace::default().open(SimOptions::default()).unwrap();
    for offset in 0..60 {
        append(&mut store, offset as i64, offset, 1000);
        store.settle();
    }
    while store.step_maintain() {
        store.settle();
    }
    store.place.flip_bit("0000000002.seg", 5000, 3);
    for _ in 0..20 {
        store.step_scrub(4096);
    }
    let notices = store.take_notices();
    assert!(
        matches!(&notices[..], [Notice::Damaged { file, position, .. }] if file == "0000000002.seg" && *position <= 5000),
        "{notices:?}"
    );
    let range = QueueOffset(0)..QueueOffset(60);
    let read = conformance::block_on(store.reader().messages(QueueId(1), range, usize::MAX, usize::MAX));
    assert!(matches!(read, Err(ReadError::Damaged { file, .. }) if file == "0000000002.seg"));
}

/// Mixed retentions for forty simulated days: bytes carried per byte written, and the log against what is alive.
#[test]
fn space_stays_within_bounds_over_forty_days() {
    let options = SimOptions { segment_bytes: 64 << 10, slack_segments: 4, ..SimOptions::default() };
    let (mut store, _) = SimPlace::default().open(options).unwrap();
    let hour = 3_600_000i64;
    let retention = [hour, 72 * hour, 720 * hour];
    let mut random = Random::new(11);
    let mut next = [0u64; 3];
    let mut times: [std::collections::VecDeque<i64>; 3] = Default::default();
    let mut keys: std::collections::VecDeque<(i64, Bytes)> = Default::default();
    let (mut written, mut worst) = (0u64, 0f64);
    let steps = 40 * 24 * 4;
    for step in 0..steps {
        let time = step as i64 * hour / 4;
        let mut ops = Vec::new();
        for (queue, keep) in retention.iter().enumerate() {
            for _ in 0..4 {
                let record = Bytes::from(vec![1; 200 + random.below(200) as usize]);
                written += record.len() as u64;
                ops.push(crate::Op::Append {
                    queue: QueueId(queue as u64),
                    offset: QueueOffset(next[queue]),
                    record,
                    terms: Vec::new(),
                    keep_until: crate::UnixMillis(time + keep),
                });
                next[queue] += 1;
                times[queue].push_back(time);
            }
            while times[queue].front().is_some_and(|appended| appended + keep < time) {
                times[queue].pop_front();
            }
            let below = QueueOffset(next[queue] - times[queue].len() as u64);
            ops.push(crate::Op::Trim { queue: QueueId(queue as u64), below });
        }
        let key = Bytes::from(format!("due/{step}"));
        let keep = crate::UnixMillis(time + 960 * hour);
        ops.push(crate::Op::Put { key: key.clone(), image: Bytes::from(vec![2; 100]), keep_until: Some(keep) });
        // Most are removed soon, some live for forty days.
        keys.push_back((time + if step % 10 == 0 { 960 } else { 2 } * hour, key));
        if let Some(at) = keys.iter().position(|(due, _)| *due <= time)
            && let Some((_, key)) = keys.remove(at)
        {
            ops.push(crate::Op::Remove { key });
        }
        store.commit(Batch { time: crate::UnixMillis(time), ops });
        for _ in 0..8 {
            store.settle();
            store.step_maintain();
        }
        let usage = store.usage();
        let slack = 6 * u64::from(options.segment_bytes);
        let live = usage.live_bytes.unwrap();
        worst = worst.max(usage.log_bytes.saturating_sub(slack) as f64 / live as f64);
    }
    assert_eq!(store.take_notices(), []);
    let usage = store.usage();
    let carried = store.carried_bytes() as f64 / written as f64;
    println!(
        "written {written}, carried per byte {carried:.2}, log (less 6 segments) / live at most {worst:.2}, \
         now {} of {} bytes alive in {} segments",
        usage.live_bytes.unwrap(),
        usage.log_bytes,
        usage.segments
    );
    assert!(carried < 2.0 && worst < 2.2, "carried {carried}, log/live {worst}");
}
