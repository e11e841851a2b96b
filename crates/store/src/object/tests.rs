mod held;

use super::*;
use crate::conformance::{self, Bell, Subject, block_on};
use crate::local::tests::Folder;
use crate::{Op, Reader, StoredMessage};
use bytes::Bytes;
use held::Held;
use martlet_bucket::Location;
use martlet_model::{QueueId, QueueOffset, UnixMillis};
use object_store::ObjectStore;
use object_store::memory::InMemory;

const HOUR: i64 = 3_600_000;

struct Place {
    bucket: Bucket,
    bell: Arc<Bell>,
    /// Removed with the place.
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    fn in_memory() -> Self {
        Self::of(Arc::new(InMemory::new()))
    }

    fn of(store: Arc<dyn ObjectStore>) -> Self {
        let bucket = Bucket::of_store("memory:".parse::<Location>().unwrap(), store, "test").unwrap();
        Self { bucket, bell: Arc::default(), _folder: None }
    }

    fn in_folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bucket = Bucket::open(Location::of_folder(folder.path()).unwrap(), "test").unwrap();
        Self { bucket, bell: Arc::default(), _folder: Some(folder) }
    }

    fn options(&self) -> BucketOptions {
        BucketOptions {
            flush_interval: Duration::ZERO,
            table_bytes: 256 << 10,
            compaction_poll: Duration::from_millis(20),
            look_after_every: Duration::from_millis(20),
            ..BucketOptions::new(self.bucket.clone(), "shard-0", self.bell.waker())
        }
    }

    /// Another process on the same place.
    fn elsewhere(&self) -> Self {
        Self { bucket: self.bucket.clone(), bell: Arc::default(), _folder: None }
    }

    fn wait_for_failure(&self, store: &BucketStore) -> String {
        assert!(self.bell.wait_until(|| store.progress().failed.is_some()), "it has not failed");
        store.progress().failed.unwrap().to_string()
    }
}

impl Subject for Place {
    type Store = BucketStore;

    fn open(&mut self) -> BucketStore {
        BucketStore::open(self.options()).unwrap().0
    }

    fn wait(&mut self, store: &mut BucketStore, ticket: Ticket) {
        let durable = self.bell.wait_until(|| {
            assert!(store.progress().failed.is_none(), "{:?}", store.progress());
            store.progress().durable >= ticket
        });
        assert!(durable, "{:?}", store.progress());
    }

    fn close(&mut self, store: BucketStore) {
        let progress = store.close();
        assert!(progress.failed.is_none(), "{progress:?}");
    }
}

fn append(offset: u64, keep_until: UnixMillis) -> Op {
    let record = Bytes::from(format!("{offset}"));
    Op::Append { queue: QueueId(1), offset: QueueOffset(offset), record, terms: Vec::new(), keep_until }
}

fn message(offset: u64) -> Batch {
    Batch { time: UnixMillis(offset as i64), ops: vec![append(offset, UnixMillis(HOUR))] }
}

fn all(store: &BucketStore) -> Vec<StoredMessage> {
    let range = QueueOffset(0)..QueueOffset(u64::MAX);
    block_on(store.reader().messages(QueueId(1), range, usize::MAX, usize::MAX)).unwrap()
}

fn count(store: &BucketStore) -> usize {
    all(store).len()
}

#[test]
fn the_object_engine_keeps_the_contract_in_memory() {
    conformance::all(Place::in_memory);
}

#[test]
fn the_object_engine_keeps_the_contract_in_a_folder() {
    conformance::all(Place::in_folder);
}

#[test]
fn a_second_opener_takes_over_and_commits_of_the_first_fail() {
    let mut place = Place::in_memory();
    let mut first = place.open();
    for offset in 0..10 {
        let ticket = first.commit(message(offset));
        place.wait(&mut first, ticket);
    }
    let mut other = place.elsewhere();
    let mut second = other.open();
    assert_eq!(count(&second), 10, "what the first reported durable is there");
    let lost = first.commit(message(10));
    let failure = place.wait_for_failure(&first);
    assert!(failure.contains("another process has taken the shard over"), "{failure}");
    assert!(first.progress().durable < lost, "{:?}", first.progress());
    assert!(!first.ready());
    assert_eq!(first.commit(message(11)), Ticket(12), "tickets are still given out");
    let ticket = second.commit(message(10));
    other.wait(&mut second, ticket);
    assert_eq!(count(&second), 11);
    assert!(first.close().failed.is_some());
    other.close(second);
}

#[test]
fn an_owner_that_does_nothing_learns_that_it_was_overtaken_before_the_new_one_is_open() {
    let mut place = Place::in_memory();
    let mut first = place.open();
    let ticket = first.commit(message(0));
    place.wait(&mut first, ticket);
    let mut other = place.elsewhere();
    let second = other.open();
    assert!(first.progress().failed.is_some(), "a living owner knows when the new one begins to answer");
    first.close();
    other.close(second);
}

#[test]
fn what_was_durable_outlives_a_process_that_ends_without_a_word() {
    let mut place = Place::in_memory();
    let mut store = place.open();
    let mut durable = Ticket(0);
    for offset in 0..200 {
        let ticket = store.commit(message(offset));
        if offset % 50 == 49 {
            place.wait(&mut store, ticket);
            durable = ticket;
        }
    }
    drop(store);
    let store = place.open();
    let found = all(&store);
    assert!(found.len() as u64 >= durable.0, "{} of {}", found.len(), durable.0);
    assert!(found.iter().enumerate().all(|(index, message)| message.offset.0 == index as u64), "a gap");
    place.close(store);
}

#[test]
fn a_clock_an_hour_behind_that_of_the_last_owner_breaks_nothing() {
    let mut place = Place::in_memory();
    let now = SteadyClock::start().millis();
    for (round, wall) in [now, now - HOUR, now - 2 * HOUR].into_iter().enumerate() {
        let options = BucketOptions { wall: Some(UnixMillis(wall)), ..place.options() };
        let (mut store, _) = BucketStore::open(options).unwrap();
        let ticket = store.commit(message(round as u64));
        place.wait(&mut store, ticket);
        assert_eq!(count(&store), round + 1);
        place.close(store);
    }
}

#[test]
fn an_owner_whose_clock_is_ahead_and_who_writes_while_somebody_opens_breaks_nothing() {
    let now = SteadyClock::start().millis();
    let at = |place: &Place, wall: i64, table_bytes: usize| {
        let options = BucketOptions { wall: Some(UnixMillis(wall)), table_bytes, ..place.options() };
        BucketStore::open(options).unwrap().0
    };
    let objects = Arc::new(InMemory::new());
    let mut owner = Place::of(objects.clone());
    let mut store = at(&owner, now, 1 << 20);
    let ticket = store.commit(message(0));
    owner.wait(&mut store, ticket);
    owner.close(store);

    let held = Arc::new(Held::new(objects));
    let mut opener = Place::of(held.clone());
    let hold = held.hold();
    let (mut opened, overtaken) = std::thread::scope(|scope| {
        // Every row makes a table, those of the log that it finds too.
        let opening = scope.spawn(|| at(&opener, now + 10_000, 1));
        let overtaken = hold.before_it(|| {
            // Leaves a table of a time to come.
            let mut store = at(&owner, now + HOUR, 1 << 20);
            let ticket = store.commit(message(1));
            owner.wait(&mut store, ticket);
            owner.close(store);
            // And another that is in the log alone.
            let mut store = at(&owner, now + HOUR, 1 << 20);
            let ticket = store.commit(message(2));
            owner.wait(&mut store, ticket);
            store
        });
        (opening.join().unwrap(), overtaken)
    });
    assert_eq!(count(&opened), 3);
    let ticket = opened.commit(message(3));
    opener.wait(&mut opened, ticket);
    assert_eq!(count(&opened), 4);
    opener.close(opened);
    drop(overtaken);
}

#[test]
fn a_period_that_is_over_and_trimmed_is_given_up_and_one_that_can_be_read_is_not() {
    let mut place = Place::in_memory();
    let mut store = place.open();
    let start = UnixMillis(500_000 * HOUR);
    let batch = |hours: i64, ops| Batch { time: start.plus(hours * HOUR), ops };
    for hour in 0..6 {
        let until = start.plus((hour + 1) * HOUR);
        let ops = (0..100).map(|index| append(hour as u64 * 100 + index, until)).collect();
        store.commit(batch(hour, ops));
    }
    let trim = |below| Op::Trim { queue: QueueId(1), below: QueueOffset(below) };
    let ticket = store.commit(batch(6, vec![trim(250)]));
    place.wait(&mut store, ticket);
    let periods = |store: &BucketStore| {
        let trees = store.db.status().list_segments();
        trees.iter().filter_map(|tree| keys::of_period(&tree.prefix)).collect::<Vec<_>>()
    };
    assert_eq!(periods(&store).len(), 6);
    // Written as tables, so that there is something to give up.
    place.close(store);
    store = place.open();
    let runtime = place.bucket.runtime();
    let mut status = store.db.subscribe();
    while periods(&store).len() > 4 {
        runtime.block_on(status.changed()).unwrap();
    }
    assert_eq!(all(&store).first().map(|message| message.offset.0), Some(250));
    assert_eq!(count(&store), 350);
    // All of the queue's end is gone, yet its bounds are known.
    let ticket = store.commit(batch(9, vec![trim(600)]));
    place.wait(&mut store, ticket);
    while !periods(&store).is_empty() {
        runtime.block_on(status.changed()).unwrap();
    }
    let bounds = block_on(store.reader().bounds(QueueId(1))).unwrap();
    assert_eq!(bounds, Some(QueueOffset(600)..QueueOffset(600)));
    place.close(store);
}

#[test]
fn a_store_is_copied_from_a_folder_into_a_bucket_and_back() {
    for seed in 0..4 {
        let mut place = Place::in_memory();
        conformance::a_copy_that_is_cut_off_goes_on_and_reads_like_its_source(&mut Folder::new(), &mut place, seed);
        conformance::a_copy_that_is_cut_off_goes_on_and_reads_like_its_source(
            &mut Place::in_memory(),
            &mut Folder::new(),
            seed,
        );
    }
}
