//! Crashes in the first write of a new segment, of which later sectors survive and the first, with the header, does not.

use super::*;
use crate::disk::DiskFile;
use crate::inspect::inspect_disk;
use crate::{Op, UnixMillis, conformance};

const QUEUE: QueueId = QueueId(1);
const OTHER: QueueId = QueueId(2);

fn append(store: &mut SimStore, queue: QueueId, offset: u64, size: usize) -> Ticket {
    let record = Bytes::from(vec![offset as u8 + 1; size]);
    let (offset, keep_until) = (QueueOffset(offset), UnixMillis(1_000_000));
    let ops = vec![Op::Append { queue, offset, record, terms: Vec::new(), keep_until }];
    store.commit(Batch { time: UnixMillis(1), ops })
}

fn offsets(store: &SimStore) -> Vec<u64> {
    let range = QueueOffset(0)..QueueOffset(u64::MAX);
    let read = conformance::block_on(store.reader().messages(QUEUE, range, usize::MAX, usize::MAX));
    read.unwrap().iter().map(|message| message.offset.0).collect()
}

fn crash_without_head(store: SimStore, file: &str) -> SimPlace {
    let place = store.place;
    place.disk.crash_without(file, 0);
    let mut head = [1; 512];
    place.disk.open(file).unwrap().read_at(0, &mut head).unwrap();
    assert_eq!(head, [0; 512]);
    place
}

fn assert_removed(report: &RecoveryReport, place: &SimPlace, file: &str) {
    assert_eq!(report.leftovers_removed, [file]);
    let torn = report.torn.as_ref().unwrap();
    assert_eq!((torn.file.as_str(), torn.position), (file, 0));
    assert!(torn.bytes_cut > 512);
    assert!(place.files().iter().all(|(name, _)| name != file));
}

fn assert_refused(place: &SimPlace, options: SimOptions, file: &str) {
    let refused = place.open(options).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, OpenError::Damaged { file: named, position: 0, .. } if named == file), "{refused}");
    let looked_at = inspect_disk(&place.disk).unwrap();
    let segment = looked_at.segments.iter().find(|segment| segment.file == file).unwrap();
    assert!(segment.damage.is_some() && !segment.torn, "{segment:?}");
}

const SMALL: SimOptions = SimOptions {
    segment_bytes: 4096,
    tail_cache_bytes: 4096,
    slack_segments: 1,
    release_before_sync: false,
    delete_segment_too_early: false,
    lossy_index: 0,
};
/// A store of so many segments that the manifest at the head of the next one fills its first sector: one durable
/// message each, numbered from 0.
fn with_a_long_manifest() -> (SimStore, u64) {
    let (mut store, _) = SimPlace::default().open(SMALL).unwrap();
    for offset in 0..60 {
        append(&mut store, QUEUE, offset, 3000);
        store.settle();
    }
    assert_eq!(store.usage().segments, 60);
    (store, 60)
}

#[test]
fn a_segment_whose_first_write_lost_its_head_is_removed_and_the_log_goes_on() {
    let (mut store, durable) = with_a_long_manifest();
    append(&mut store, QUEUE, durable, 3000);
    assert!(store.step_write());
    let place = crash_without_head(store, "0000000061.seg");

    let looked_at = inspect_disk(&place.disk).unwrap();
    assert!(looked_at.segments.last().is_some_and(|segment| segment.file == "0000000061.seg" && segment.torn));
    let (mut store, report) = place.open(SMALL).unwrap();
    assert_removed(&report, &place, "0000000061.seg");
    assert_eq!(offsets(&store), Vec::from_iter(0..durable));
    append(&mut store, QUEUE, durable, 3000);
    store.settle();
    let (store, _) = store.crash(&mut Random::new(1)).open(SMALL).unwrap();
    assert_eq!(offsets(&store), Vec::from_iter(0..=durable));
}

#[test]
fn a_durable_segment_that_lost_its_head_is_refused() {
    // The newest one: its second frame says that the first was durable.
    let (mut store, durable) = with_a_long_manifest();
    for offset in durable..durable + 2 {
        append(&mut store, QUEUE, offset, 1000);
        store.settle();
    }
    let place = store.close();
    place.disk.zero_sector("0000000061.seg", 0);
    assert_refused(&place, SMALL, "0000000061.seg");

    // An older one: the manifest lists it.
    let place = with_a_long_manifest().0.close();
    place.disk.zero_sector("0000000007.seg", 0);
    assert_refused(&place, SMALL, "0000000007.seg");

    // The header alone cannot be torn off its sector.
    let (mut store, durable) = with_a_long_manifest();
    append(&mut store, QUEUE, durable, 3000);
    store.settle();
    let place = store.close();
    place.flip_bit("0000000061.seg", 2, 0);
    assert_refused(&place, SMALL, "0000000061.seg");
}

/// A store whose next steps of maintenance carry three messages, in two frames, from the first segment to the third.
fn about_to_carry() -> (SimStore, SimOptions) {
    let options = SimOptions { segment_bytes: 4 << 20, slack_segments: 0, ..SMALL };
    let (mut store, _) = SimPlace::default().open(options).unwrap();
    let size = 560 << 10;
    for (queue, count) in [(QUEUE, 3), (OTHER, 4)] {
        for offset in 0..count {
            append(&mut store, queue, offset, size);
        }
    }
    let trim = Op::Trim { queue: OTHER, below: QueueOffset(4) };
    store.commit(Batch { time: UnixMillis(2), ops: vec![trim] });
    append(&mut store, QUEUE, 3, size / 2);
    store.settle();
    assert_eq!(store.usage().segments, 2);
    (store, options)
}

#[test]
fn a_carried_segment_that_lost_its_head_before_the_sync_is_removed() {
    let (store, options) = about_to_carry();
    for _ in 0..20 {
        store.settle();
        store.place.fail(false, true, false);
        store.step_maintain();
        store.place.fail(false, false, false);
    }
    // Every try ends at the sync of a new file; the first one is the one that is torn here.
    let file = "0000000003.seg";
    assert!(matches!(store.take_notices().first(), Some(Notice::IndexFailed { .. })));
    let place = crash_without_head(store, file);
    let third = place.disk.open(file).unwrap();
    let torn = crate::scan::find_header(&third, b"a simulated log.", 3, 0, |_| true).unwrap().unwrap();
    assert_eq!(torn.durable, 64);

    let (store, report) = place.open(options).unwrap();
    assert!(report.leftovers_removed.iter().any(|removed| removed == file));
    assert!(report.torn.is_some_and(|torn| torn.file == file && torn.position == 0));
    assert_eq!(offsets(&store), [0, 1, 2, 3]);
}

#[test]
fn a_listed_carried_segment_that_lost_its_head_is_refused() {
    let (store, options) = about_to_carry();
    for _ in 0..20 {
        store.settle();
        store.step_maintain();
    }
    assert!(store.carried_bytes() > 0);
    assert_eq!(offsets(&store), [0, 1, 2, 3]);
    let place = store.close();
    place.disk.zero_sector("0000000003.seg", 0);
    assert_refused(&place, options, "0000000003.seg");
}
