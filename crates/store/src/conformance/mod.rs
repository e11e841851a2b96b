//! What every engine must do, as tests any engine can be put through.
//!
//! Each function takes a [`Subject`]: an empty store that can be opened again. They panic where the contract is broken.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)] // tests, callable from other crates

mod bell;
mod copies;
mod model;
mod random;

pub use bell::Bell;
pub use copies::a_copy_that_is_cut_off_goes_on_and_reads_like_its_source;
pub use model::Model;
pub use random::{Batches, Random};

use crate::{Batch, KeyState, Op, Reader, Store, Term, Ticket};
use bytes::Bytes;
use martlet_model::{QueueId, QueueOffset, UnixMillis};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// Opens stores on one place that starts out empty.
pub trait Subject {
    /// The engine under test.
    type Store: Store;

    /// Opens the place again, or for the first time. At most one store is open at a time.
    fn open(&mut self) -> Self::Store;

    /// Waits until a ticket is due.
    fn wait(&mut self, store: &mut Self::Store, ticket: Ticket);

    /// Closes a store.
    fn close(&mut self, store: Self::Store);
}

/// Runs a future to its end on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Puts an engine through everything.
pub fn all<S: Subject>(mut empty: impl FnMut() -> S) {
    a_batch_is_readable_at_once_and_after_opening_again(&mut empty());
    keys_hold_an_image_and_the_deltas_since(&mut empty());
    scans_are_ordered_limited_and_leave_out_what_was_removed(&mut empty());
    bounds_outlive_the_messages_and_end_with_forget(&mut empty());
    messages_stop_at_their_limits(&mut empty());
    messages_are_found_by_term_newest_first(&mut empty());
    empty_batches_come_due_in_order(&mut empty());
    a_message_may_be_larger_than_a_segment(&mut empty());
    for seed in 0..8 {
        random_batches_read_like_the_model(&mut empty(), seed);
    }
}

fn append(queue: u64, offset: u64, record: &str, terms: &[u64]) -> Op {
    Op::Append {
        queue: QueueId(queue),
        offset: QueueOffset(offset),
        record: Bytes::copy_from_slice(record.as_bytes()),
        terms: terms.iter().map(|term| Term(*term)).collect(),
        keep_until: UnixMillis(1_000_000),
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, image: &str) -> Op {
    Op::Put { key: bytes(key), image: bytes(image), keep_until: None }
}

fn delta(key: &str, delta: &str) -> Op {
    Op::Delta { key: bytes(key), delta: bytes(delta) }
}

fn remove(key: &str) -> Op {
    Op::Remove { key: bytes(key) }
}

fn commit<S: Store>(store: &mut S, time: i64, ops: Vec<Op>) -> Ticket {
    store.commit(Batch { time: UnixMillis(time), ops })
}

/// Closes and opens again, everything durable.
fn reopen<S: Subject>(subject: &mut S, mut store: S::Store) -> S::Store {
    let ticket = commit(&mut store, i64::MAX / 2, Vec::new());
    subject.wait(&mut store, ticket);
    subject.close(store);
    subject.open()
}

fn records<S: Store>(store: &S, queue: u64, from: u64, to: u64, max: usize, max_bytes: usize) -> Vec<String> {
    let range = QueueOffset(from)..QueueOffset(to);
    let messages = block_on(store.reader().messages(QueueId(queue), range, max, max_bytes)).unwrap();
    messages.iter().map(|m| format!("{}:{}", m.offset, String::from_utf8_lossy(&m.record))).collect()
}

/// A batch is there for readers before it is durable, with its time, and still is after the store was opened again.
pub fn a_batch_is_readable_at_once_and_after_opening_again<S: Subject>(subject: &mut S) {
    let mut store = subject.open();
    let first = commit(&mut store, 1000, vec![append(7, 0, "a", &[]), put("k", "v"), append(7, 1, "b", &[])]);
    assert_eq!(first, Ticket(1));
    assert_eq!(records(&store, 7, 0, 9, 9, 99), ["0:a", "1:b"]);
    let second = commit(&mut store, 1001, vec![append(7, 2, "c", &[])]);
    assert_eq!(second, Ticket(2));
    subject.wait(&mut store, second);
    assert_eq!(store.progress().durable, second);
    assert!(store.progress().failed.is_none());
    for _ in 0..3 {
        assert_eq!(records(&store, 7, 0, 9, 9, 99), ["0:a", "1:b", "2:c"]);
        let all = block_on(store.reader().messages(QueueId(7), QueueOffset(0)..QueueOffset(9), 9, 99)).unwrap();
        assert_eq!(all.iter().map(|m| m.store_time.0).collect::<Vec<_>>(), [1000, 1000, 1001]);
        let image = block_on(store.reader().get(b"k")).unwrap().unwrap().image;
        assert_eq!(image, Some(bytes("v")));
        store = reopen(subject, store);
        assert_eq!(store.progress().durable, Ticket(0), "tickets are counted from opening");
    }
    subject.close(store);
}

/// Put, delta and remove do what they say, in one batch, over several, and over several lives of the store.
pub fn keys_hold_an_image_and_the_deltas_since<S: Subject>(subject: &mut S) {
    let mut store = subject.open();
    let state = |image: Option<&str>, deltas: &[&str]| {
        Some(KeyState { image: image.map(bytes), deltas: deltas.iter().map(|delta| bytes(delta)).collect() })
    };
    let large = "x".repeat(10_000);
    let steps: Vec<(Vec<Op>, Option<KeyState>)> = vec![
        (vec![delta("k", "1")], state(None, &["1"])),
        (vec![delta("k", "2"), delta("k", "3")], state(None, &["1", "2", "3"])),
        (vec![put("k", "one")], state(Some("one"), &[])),
        (vec![delta("k", "4"), put("other", "x")], state(Some("one"), &["4"])),
        (vec![delta("k", "5"), put("k", "two"), delta("k", "6")], state(Some("two"), &["6"])),
        (vec![put("k", &large), delta("k", &large)], state(Some(&large), &[&large])),
        (vec![remove("k")], None),
        (vec![remove("k"), delta("k", "7")], state(None, &["7"])),
        (vec![put("k", "")], state(Some(""), &[])),
    ];
    for (step, (ops, expected)) in steps.into_iter().enumerate() {
        commit(&mut store, step as i64, ops);
        assert_eq!(block_on(store.reader().get(b"k")).unwrap(), expected, "step {step}");
        store = reopen(subject, store);
        assert_eq!(block_on(store.reader().get(b"k")).unwrap(), expected, "step {step}, opened again");
    }
    assert_eq!(block_on(store.reader().get(b"absent")).unwrap(), None);
    subject.close(store);
}

/// Scans give keys in order, from the first included to the last excluded, no more than asked for.
pub fn scans_are_ordered_limited_and_leave_out_what_was_removed<S: Subject>(subject: &mut S) {
    let mut store = subject.open();
    let keys: Vec<String> = (0..100).map(|number| format!("k{number:03}")).collect();
    commit(&mut store, 1, keys.iter().rev().map(|key| put(key, key)).collect());
    store = reopen(subject, store);
    commit(&mut store, 2, keys.iter().take(90).map(|key| remove(key)).collect());
    commit(&mut store, 3, vec![put("k050", "again"), delta("k095", "d"), put("l", "beyond")]);
    for _ in 0..2 {
        let scan = |from: &str, to: &str, limit| {
            let found = block_on(store.reader().scan(bytes(from)..bytes(to), limit)).unwrap();
            found.into_iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(scan("k", "k091", 10), ["k050", "k090"]);
        assert_eq!(scan("k000", "k999", 4), ["k050", "k090", "k091", "k092"]);
        assert_eq!(scan("k098", "z", 100), ["k098", "k099", "l"]);
        assert_eq!(scan("m", "z", 100), Vec::<String>::new());
        assert_eq!(scan("k", "k", 100), Vec::<String>::new());
        store = reopen(subject, store);
    }
    subject.close(store);
}

/// Trim point and next offset are known as long as the queue is not forgotten.
pub fn bounds_outlive_the_messages_and_end_with_forget<S: Subject>(subject: &mut S) {
    let mut store = subject.open();
    let bounds = |store: &S::Store, queue| {
        block_on(store.reader().bounds(QueueId(queue))).unwrap().map(|range| (range.start.0, range.end.0))
    };
    let trim = |queue, below| Op::Trim { queue: QueueId(queue), below: QueueOffset(below) };
    assert_eq!(bounds(&store, 1), None);
    commit(&mut store, 1, vec![append(1, 0, "a", &[]), append(1, 1, "b", &[]), append(1, 2, "c", &[])]);
    assert_eq!(bounds(&store, 1), Some((0, 3)));
    commit(&mut store, 2, vec![trim(1, 2), trim(1, 1), append(2, 0, "x", &[])]);
    assert_eq!(bounds(&store, 1), Some((2, 3)));
    assert_eq!(records(&store, 1, 0, 9, 9, 99), ["2:c"]);
    commit(&mut store, 3, vec![trim(1, 3)]);
    store = reopen(subject, store);
    assert_eq!(bounds(&store, 1), Some((3, 3)));
    assert_eq!(records(&store, 1, 0, 9, 9, 99), Vec::<String>::new());
    commit(&mut store, 4, vec![append(1, 3, "d", &[]), Op::Forget { queue: QueueId(2) }]);
    for _ in 0..2 {
        assert_eq!(bounds(&store, 1), Some((3, 4)));
        assert_eq!(bounds(&store, 2), None);
        assert_eq!(records(&store, 2, 0, 9, 9, 99), Vec::<String>::new());
        store = reopen(subject, store);
    }
    subject.close(store);
}

/// Ranges, counts and bytes limit what comes back; the first message always comes.
pub fn messages_stop_at_their_limits<S: Subject>(subject: &mut S) {
    let mut store = subject.open();
    for offset in 0..10 {
        commit(&mut store, offset, vec![append(1, offset as u64, "0123456789", &[])]);
    }
    for _ in 0..2 {
        let count = |from, to, max, max_bytes| records(&store, 1, from, to, max, max_bytes).len();
        assert_eq!(count(0, 100, 100, 1000), 10);
        assert_eq!(count(3, 5, 100, 1000), 2);
        assert_eq!(count(0, 100, 4, 1000), 4);
        assert_eq!(count(0, 100, 100, 30), 3);
        assert_eq!(count(0, 100, 100, 35), 3);
        assert_eq!(count(0, 100, 100, 0), 1);
        assert_eq!(count(10, 100, 100, 100), 0);
        assert_eq!(count(5, 5, 100, 100), 0);
        store = reopen(subject, store);
    }
    subject.close(store);
}

/// Terms lead to messages, the newest first, as long as these are readable.
pub fn messages_are_found_by_term_newest_first<S: Subject>(subject: &mut S) {
    let mut store = subject.open();
    commit(&mut store, 1, vec![append(1, 0, "a", &[5, 6]), append(2, 0, "b", &[5])]);
    store = reopen(subject, store);
    commit(&mut store, 2, vec![append(1, 1, "c", &[5, u64::MAX])]);
    let find = |store: &S::Store, term, limit| {
        let found = block_on(store.reader().find(Term(term), limit)).unwrap();
        found.into_iter().map(|(queue, offset)| (queue.0, offset.0)).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        assert_eq!(find(&store, 5, 10), [(1, 1), (2, 0), (1, 0)]);
        assert_eq!(find(&store, 5, 2), [(1, 1), (2, 0)]);
        assert_eq!(find(&store, u64::MAX, 10), [(1, 1)]);
        assert_eq!(find(&store, 7, 10), []);
        store = reopen(subject, store);
    }
    commit(&mut store, 3, vec![Op::Trim { queue: QueueId(1), below: QueueOffset(1) }]);
    assert_eq!(find(&store, 5, 10), [(1, 1), (2, 0)]);
    assert_eq!(find(&store, 6, 10), []);
    subject.close(store);
}

/// A batch without operations gets a ticket that comes due.
pub fn empty_batches_come_due_in_order<S: Subject>(subject: &mut S) {
    let mut store = subject.open();
    for expected in 1..5 {
        let ticket = commit(&mut store, 1, Vec::new());
        assert_eq!(ticket, Ticket(expected));
        subject.wait(&mut store, ticket);
        assert_eq!(store.progress().durable, ticket);
        assert!(store.ready());
    }
    subject.close(store);
}

/// Size of a segment is no limit for a batch.
pub fn a_message_may_be_larger_than_a_segment<S: Subject>(subject: &mut S) {
    let mut store = subject.open();
    let large = "y".repeat(5 << 20);
    commit(&mut store, 1, vec![append(1, 0, "small", &[])]);
    commit(&mut store, 2, vec![append(1, 1, &large, &[])]);
    commit(&mut store, 3, vec![append(1, 2, "small", &[])]);
    for _ in 0..2 {
        let lengths: Vec<usize> = records(&store, 1, 0, 9, 9, usize::MAX).iter().map(String::len).collect();
        assert_eq!(lengths, [7, large.len() + 2, 7]);
        store = reopen(subject, store);
    }
    subject.close(store);
}

/// Random batches, some lives of the store, and every answer compared with a few maps.
pub fn random_batches_read_like_the_model<S: Subject>(subject: &mut S, seed: u64) {
    let mut model = Model::default();
    let mut batches = Batches::new(seed);
    batches.record_max = 20_000;
    let mut store = subject.open();
    for round in 0..6 {
        for _ in 0..60 {
            let batch = batches.next(&model);
            model.apply(&batch);
            store.commit(batch);
        }
        let told = model.compare(&store.reader());
        assert_eq!(told, Ok(()), "seed {seed}, round {round}");
        let ticket = store.commit(Batch { time: model.time(), ops: Vec::new() });
        subject.wait(&mut store, ticket);
        subject.close(store);
        store = subject.open();
        let told = model.compare(&store.reader());
        assert_eq!(told, Ok(()), "seed {seed}, round {round}, opened again");
    }
    subject.close(store);
}
