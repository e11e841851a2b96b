use super::*;
use crate::conformance::{self, Bell, Subject, block_on};
use crate::{Op, UnixMillis};
use std::fs;
use std::os::unix::fs::FileExt;

pub(crate) struct Folder {
    dir: tempfile::TempDir,
    bell: Arc<Bell>,
    segment_bytes: u32,
    tail_cache_bytes: usize,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, bell: Arc::default(), segment_bytes: 1 << 20, tail_cache_bytes: 64 << 10 }
    }

    fn options(&self) -> Options {
        Options {
            segment_bytes: self.segment_bytes,
            tail_cache_bytes: self.tail_cache_bytes,
            ..Options::new(self.dir.path().to_owned(), *b"log id of a test", self.bell.waker())
        }
    }

    fn try_open(&self) -> Result<(LocalStore, RecoveryReport), OpenError> {
        LocalStore::open(self.options())
    }

    /// Files of segments, oldest first.
    fn segments(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.dir.path()).unwrap().map(|file| file.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
        files.sort();
        files
    }
}

impl Subject for Folder {
    type Store = LocalStore;

    fn open(&mut self) -> LocalStore {
        self.try_open().unwrap().0
    }

    fn wait(&mut self, store: &mut LocalStore, ticket: Ticket) {
        let durable = self.bell.wait_until(|| {
            assert!(store.progress().failed.is_none(), "{:?}", store.progress());
            store.progress().durable >= ticket
        });
        assert!(durable, "{:?}", store.progress());
    }

    fn close(&mut self, store: LocalStore) {
        store.close();
    }
}

fn message(offset: u64, record: &[u8]) -> Batch {
    let op = Op::Append {
        queue: QueueId(1),
        offset: QueueOffset(offset),
        record: Bytes::copy_from_slice(record),
        terms: Vec::new(),
        keep_until: UnixMillis(0),
    };
    Batch { time: UnixMillis(offset as i64), ops: vec![op] }
}

fn all(store: &LocalStore) -> Vec<StoredMessage> {
    let range = QueueOffset(0)..QueueOffset(u64::MAX);
    block_on(store.reader().messages(QueueId(1), range, usize::MAX, usize::MAX)).unwrap()
}

/// What a future says at its first poll, if it is over then.
fn polled_once<F: Future>(future: &mut std::pin::Pin<Box<F>>) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(answer) => Some(answer),
        std::task::Poll::Pending => None,
    }
}

#[test]
fn the_local_engine_keeps_the_contract() {
    conformance::all(Folder::new);
}

#[test]
fn a_second_process_is_refused_by_name() {
    let folder = Folder::new();
    let (store, report) = folder.try_open().unwrap();
    assert!(report.created);
    let Err(error) = folder.try_open() else { panic!("two stores on one folder") };
    assert_eq!(error, OpenError::Locked { folder: folder.dir.path().to_owned(), process: Some(std::process::id()) });
    store.close();
    assert!(!folder.try_open().unwrap().1.created);
}

#[test]
fn a_torn_last_frame_is_cut_off_and_reported_and_the_log_goes_on() {
    let mut folder = Folder::new();
    let mut store = folder.open();
    for offset in 0..3 {
        store.commit(message(offset, &[b'a'; 100]));
    }
    store.close();
    let path = folder.segments().remove(0);
    let whole = fs::read(&path).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    // The last frame with any of its bytes not written.
    for lost in [end - 1, end - 50, end - 110] {
        fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0], lost as u64).unwrap();
        let (store, report) = folder.try_open().unwrap();
        let torn = report.torn.unwrap();
        assert_eq!(torn.file, "0000000001.seg");
        assert!(torn.position < lost as u64 && torn.position + torn.bytes_cut <= end as u64);
        assert_eq!(all(&store).len(), 2);
        store.close();
        let (mut store, report) = folder.try_open().unwrap();
        assert_eq!(report.torn, None, "it was cut off");
        store.commit(message(2, b"again"));
        store.close();
        assert_eq!(all(&folder.open()).len(), 3);
        fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn a_bad_frame_that_later_ones_vouch_for_is_damage_and_never_cut_off() {
    let mut folder = Folder::new();
    let mut store = folder.open();
    for offset in 0..4 {
        let ticket = store.commit(message(offset, &[b'a'; 100]));
        folder.wait(&mut store, ticket);
    }
    store.close();
    let path = folder.segments().remove(0);
    let whole = fs::read(&path).unwrap();
    let second = whole.windows(4).enumerate().filter(|(_, bytes)| bytes == b"MFR1").nth(2).unwrap().0;
    for at in [second, second + 30, second + 63, second + 64, second + 100] {
        let mut broken = whole.clone();
        broken[at] ^= 1;
        fs::write(&path, &broken).unwrap();
        match folder.try_open().map(|_| ()).unwrap_err() {
            OpenError::Damaged { file, position, .. } => {
                assert_eq!((file.as_str(), position), ("0000000001.seg", second as u64));
            }
            other => panic!("{other}"),
        }
        assert_eq!(fs::read(&path).unwrap(), broken, "nothing was changed");

        let report = crate::inspect::inspect(folder.dir.path()).unwrap().segments.remove(0);
        assert_eq!(report.damage.unwrap().position, second as u64);
        assert!(crate::inspect::repair(folder.dir.path(), 1, 64).is_err(), "good frames are not dropped");
        let lost = crate::inspect::repair(folder.dir.path(), 1, second as u64).unwrap();
        assert!(lost.messages.len() <= 1 && fs::read(folder.dir.path().join(&lost.kept_in)).is_ok());
        if at == second + 30 {
            let message = &lost.messages[0];
            assert_eq!((message.queue, message.offset, message.intact), (QueueId(1), QueueOffset(1), true));
        }
        let (store, _) = folder.try_open().unwrap();
        let offsets: Vec<u64> = all(&store).iter().map(|message| message.offset.0).collect();
        assert_eq!(offsets, [0, 2, 3]);
        store.close();
        let report = crate::inspect::inspect(folder.dir.path()).unwrap().segments.remove(0);
        assert_eq!((report.damage, report.gaps), (None, 1));
    }
}

#[test]
fn a_missing_segment_and_a_newer_format_are_refused() {
    let mut folder = Folder::new();
    let mut store = folder.open();
    for offset in 0..30 {
        let ticket = store.commit(message(offset, &[b'a'; 100_000]));
        folder.wait(&mut store, ticket);
    }
    store.close();
    let first = folder.segments().remove(0);
    let whole = fs::read(&first).unwrap();
    fs::remove_file(&first).unwrap();
    let error = folder.try_open().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("0000000001.seg") && error.contains("no such file"), "{error}");
    fs::write(&first, whole).unwrap();
    let format = folder.dir.path().join("format");
    let text = fs::read_to_string(&format).unwrap();
    assert_eq!(text, "martlet log\nversion 1\nid 6c6f67206964206f6620612074657374\n");
    fs::write(&format, text.replace("version 1", "version 2")).unwrap();
    let error = folder.try_open().map(|_| ()).unwrap_err();
    assert_eq!(error, OpenError::NewerFormat { file: "format".to_owned(), found: 2, known: 1 });
}

#[test]
fn of_queues_that_lie_between_each_other_each_is_read_whole_and_alone() {
    let mut folder = Folder::new();
    let mut store = folder.open();
    // Of one queue in four all but the last few are out of the cache.
    let record = |queue: u64, offset: u64| Bytes::from(vec![(queue * 16 + offset % 16) as u8; 100 + offset as usize]);
    for offset in 0..400 {
        let append = |queue| Op::Append {
            queue: QueueId(queue),
            offset: QueueOffset(offset),
            record: record(queue, offset),
            terms: Vec::new(),
            keep_until: UnixMillis(0),
        };
        let ticket = store.commit(Batch { time: UnixMillis(offset as i64), ops: (1..5).map(append).collect() });
        folder.wait(&mut store, ticket);
    }
    let reader = store.reader();
    for queue in 1..5 {
        let range = QueueOffset(0)..QueueOffset(400);
        let found = block_on(reader.messages(QueueId(queue), range.clone(), 1024, usize::MAX)).unwrap();
        assert_eq!(found.len(), 400, "queue {queue}");
        for (message, offset) in found.iter().zip(0..) {
            assert!(
                message.offset.0 == offset && message.record == record(queue, offset),
                "queue {queue} offset {offset}"
            );
        }
        let through = |range| block_on(reader.look_through(QueueId(queue), range, 1024, usize::MAX)).unwrap();
        assert!(through(range) == found, "queue {queue}: all are the same when looked through");
        assert!(through(QueueOffset(10)..QueueOffset(20)) == found[10..20], "queue {queue}: and some of them");
    }
}

/// A store with so many durable messages of so many bytes each.
fn filled(messages: u64, bytes: usize) -> (Folder, LocalStore) {
    let mut folder = Folder::new();
    let mut store = folder.open();
    for offset in 0..messages {
        let ticket = store.commit(message(offset, &vec![offset as u8; bytes]));
        folder.wait(&mut store, ticket);
    }
    (folder, store)
}

#[test]
fn the_tail_is_answered_at_the_first_poll_and_shares_its_bytes() {
    let (_folder, store) = filled(100, 4096);
    let reader = store.reader();
    let read = |from: u64| {
        let mut future = Box::pin(reader.messages(QueueId(1), QueueOffset(from)..QueueOffset(from + 1), 1, usize::MAX));
        polled_once(&mut future).map(|answer| answer.unwrap().remove(0).record)
    };
    let first = store.core.messages(Reach::Warm, QueueId(1), QueueOffset(0)..QueueOffset(1), 1, usize::MAX);
    assert_eq!(first, Ok(None), "64 KiB of cache do not hold 400 KiB");
    assert_eq!(read(99).unwrap().as_ptr(), read(99).unwrap().as_ptr());
    assert_eq!(all(&store).len(), 100);
}

#[test]
fn who_reads_on_finds_the_next_ones_in_memory_and_nothing_that_was_trimmed() {
    let (_folder, mut store) = filled(400, 1000);
    let reader = store.reader();
    let read = |from: u64, to: u64| {
        // Both threads of the pool are held, so that what is answered at once comes from memory.
        let held = [(); 2].map(|()| {
            let (release, gate) = std::sync::mpsc::channel::<()>();
            drop(reader.pool.run(move || gate.recv()));
            release
        });
        let mut future = Box::pin(reader.messages(QueueId(1), QueueOffset(from)..QueueOffset(to), 16, usize::MAX));
        let first = polled_once(&mut future);
        drop(held);
        let at_once = first.is_some();
        let found = first.unwrap_or_else(|| block_on(future)).unwrap();
        assert!(found.iter().all(|message| message.record[..] == [message.offset.0 as u8; 1000]));
        (found.iter().map(|message| message.offset.0).collect::<Vec<u64>>(), at_once)
    };
    assert_eq!(read(0, 400), ((0..16).collect(), false));
    assert_eq!(read(16, 400), ((16..32).collect(), false), "goes on: this read brings more");
    assert_eq!(read(32, 400), ((32..48).collect(), true));
    assert_eq!(read(48, 50), (vec![48, 49], true), "no more than was asked for");
    assert_eq!(read(50, 400), ((50..66).collect(), true));
    assert_eq!(read(66, 82), ((66..82).collect(), false), "the rest was too little");
    let trim = Op::Trim { queue: QueueId(1), below: QueueOffset(90) };
    store.commit(Batch { time: UnixMillis(400), ops: vec![trim] });
    assert_eq!(read(82, 98), ((90..98).collect(), false));
    store.commit(Batch { time: UnixMillis(401), ops: vec![Op::Forget { queue: QueueId(1) }] });
    assert_eq!(read(98, 114).0, Vec::<u64>::new());
}

#[test]
fn a_store_is_copied_into_another_folder() {
    for seed in 0..8 {
        conformance::a_copy_that_is_cut_off_goes_on_and_reads_like_its_source(
            &mut Folder::new(),
            &mut Folder::new(),
            seed,
        );
    }
}
