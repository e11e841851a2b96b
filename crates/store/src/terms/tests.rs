use super::*;
use crate::conformance::Random;
use crate::disk::DiskFile;
use crate::disk::sim::SimDisk;
use crate::index::memory::MemoryIndex;
use crate::mem::Found;
use crate::{QueueId, QueueOffset, Term};

/// Files, and all entries that should be in them.
#[derive(Default)]
struct World {
    disk: SimDisk,
    index: MemoryIndex,
    terms: TermFiles,
    entries: Vec<Entry>,
    sequence: u64,
}

impl World {
    fn take_in(&mut self, replaced: Replaced) {
        let mut changes = Changes::new();
        replaced.say(&mut changes);
        self.index.ingest(&changes).unwrap();
        assert_eq!(self.terms.replace(&self.disk, replaced), []);
    }

    /// One more file, of one segment, with a message for each of these terms.
    fn write(&mut self, segment: u32, terms: impl IntoIterator<Item = u64>) {
        let mut entries: Vec<Entry> = Vec::new();
        for term in terms {
            self.sequence += 1;
            let (queue, offset) = (QueueId(self.sequence % 5), QueueOffset(self.sequence));
            entries.push(Entry { term, segment, found: Found { sequence: self.sequence, queue, offset } });
        }
        entries.sort_unstable_by_key(Entry::order);
        let plan = Plan { generation: 0, entries: entries.len() as u64, newest: self.sequence, segments: &[segment] };
        let fill = |writer: &mut Writer<_>| Ok(entries.iter().try_for_each(|entry| writer.push(entry))?);
        let file = self.terms.make(&self.disk, plan, fill).unwrap();
        self.take_in(Replaced { added: vec![file], removed: Vec::new() });
        self.entries.extend(entries);
    }

    /// Merges until nothing is due.
    fn merge(&mut self, segments: &Segments) {
        while let Some(files) = self.terms.due(segments) {
            let merged = self.terms.merge(&self.disk, files, segments).unwrap();
            self.take_in(merged);
        }
        self.entries.retain(|entry| segments.have(entry.segment));
    }

    /// The messages with a term in all files, newest first; of each file at most `limit`.
    fn find(&self, term: u64, limit: usize) -> Vec<Found> {
        let mut all = Vec::new();
        for file in self.terms.files().iter() {
            let mut count = 0;
            let mut take = |found| {
                all.push(found);
                count += 1;
                Ok(count < limit)
            };
            file.find(&self.disk, Term(term), &mut take).unwrap();
        }
        all.sort_unstable_by_key(|&found| Reverse(found));
        all
    }

    fn expected(&self, term: u64) -> Vec<Found> {
        let mut all: Vec<Found> = self.entries.iter().filter(|e| e.term == term).map(|e| e.found).collect();
        all.sort_unstable_by_key(|&found| Reverse(found));
        all
    }

    fn names(&self) -> Vec<String> {
        self.disk.list().unwrap().into_iter().map(|(name, _)| name).collect()
    }
}

#[test]
fn what_was_written_is_found_before_and_after_merging() {
    let seed = 20_261_123;
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let mut world = World::default();
    let hot = [0, 1, u64::MAX, 1 << 63];
    let mut rare = vec![u64::MAX - 1, (1 << 63) - 1];
    for segment in 1..=70 {
        let count = [1, 40, 2_000][random.below(3) as usize];
        let terms: Vec<u64> =
            (0..count).map(|_| if random.one_in(4) { hot[random.below(4) as usize] } else { random.any() }).collect();
        rare.extend(terms.iter().take(3));
        world.write(segment, terms);
        if random.one_in(3) {
            world.merge(&Segments::new(1..=segment));
        }
        if segment % 10 == 0 {
            for term in rare.iter().copied().chain(hot).chain([2, 77]) {
                assert_eq!(world.find(term, usize::MAX), world.expected(term), "term {term}, segment {segment}");
            }
        }
    }
    world.merge(&Segments::new(1..=70));
    assert!(world.terms.files().iter().any(|file| file.generation >= 2), "{:?}", world.terms.files());
    assert!(world.terms.files().len() < 3 * FAN_IN);
    // Half of the segments go, and their entries and files with them.
    let before = world.terms.disk_bytes();
    world.merge(&Segments::new(50..=70));
    assert!(world.terms.disk_bytes() < before * 2 / 3);
    for term in rare.iter().copied().chain(hot) {
        let found = world.find(term, usize::MAX);
        assert!(world.expected(term).iter().all(|expected| found.contains(expected)), "term {term}");
    }
    world.merge(&Segments::new([71]));
    assert_eq!(world.names(), Vec::<String>::new());
}

#[test]
fn of_many_messages_with_one_term_the_newest_are_read_and_no_more() {
    let mut world = World::default();
    world.write(1, (0..200_000).map(|_| 7));
    world.write(2, [6, 8]);
    let found = world.find(7, 3);
    assert_eq!(found.iter().map(|found| found.sequence).collect::<Vec<_>>(), [200_000, 199_999, 199_998]);
    assert_eq!(world.find(6, 3).len(), 1);
}

#[test]
fn opening_knows_the_files_that_are_named_removes_others_and_says_what_is_missing() {
    let mut world = World::default();
    world.write(1, 0..500);
    world.write(2, 200..700);
    world.disk.create("terms-00000000000000ff").unwrap();
    world.disk.create("unrelated").unwrap();
    let (terms, missing) = TermFiles::open(&world.disk, &world.index).unwrap();
    assert_eq!((missing, terms.files()), (None, world.terms.files()));
    let names = ["terms-0000000000000001", "terms-0000000000000002", "unrelated"];
    assert_eq!(world.names(), names);
    world.terms = terms;
    world.write(3, [1]);
    assert_eq!(world.find(1, 9), world.expected(1));
    world.disk.remove(names[1]).unwrap();
    let (_, missing) = TermFiles::open(&world.disk, &world.index).unwrap();
    assert!(missing.unwrap().contains(names[1]));
}

#[test]
fn a_damaged_place_is_named() {
    let mut world = World::default();
    world.write(1, 0..500);
    let files = world.terms.files();
    let file = &files[0];
    for position in [20, file.buckets_end - 3] {
        world.disk.flip(&file.name(), position, 2);
        let damaged: Vec<_> =
            (0..500).filter_map(|term| file.find(&world.disk, Term(term), &mut |_| Ok(true)).err()).collect();
        assert!(matches!(&damaged[0], ReadError::Damaged { file: name, .. } if *name == file.name()), "{damaged:?}");
        assert!(world.terms.merge(&world.disk, files.to_vec(), &Segments::default()).is_err());
        // What was begun is gone again.
        assert_eq!(world.names(), [file.name()]);
        world.disk.flip(&file.name(), position, 2);
    }
    // A directory that points elsewhere leads to other entries, or to none that could be read, but never out of the file.
    let disk = &world.disk;
    for position in file.buckets_end..file.length() {
        disk.flip(&file.name(), position, 7);
        for term in [0, u64::MAX] {
            let _ = file.find(disk, Term(term), &mut |_| Ok(true));
        }
        disk.flip(&file.name(), position, 7);
    }
    let whole = disk.open(&file.name()).unwrap();
    whole.truncate(file.buckets_end / 2).unwrap();
    assert!(file.find(disk, Term(499), &mut |_| Ok(true)).is_err());
}

#[test]
fn a_full_disk_leaves_no_part_of_a_file() {
    let mut world = World::default();
    world.write(1, 0..500);
    let used: u64 = world.disk.list().unwrap().iter().map(|(_, length)| length).sum();
    world.disk.set_faults(crate::disk::sim::Faults { capacity: used + 1000, ..Default::default() });
    let merged = world.terms.merge(&world.disk, world.terms.files().to_vec(), &Segments::default());
    assert!(merged.is_err());
    assert_eq!(world.names().len(), 1);
    assert_eq!(world.find(3, 9), world.expected(3));
}

#[test]
fn what_is_known_of_a_file_round_trips() {
    let file = TermFile {
        number: 9,
        generation: 2,
        bits: 5,
        entries: 900,
        buckets_end: 12_345,
        newest: 77,
        segments: vec![(3, 400), (4, 500)],
    };
    let value = file.encode();
    assert_eq!(TermFile::decode(9, &value), Ok(file));
    for cut in 0..value.len() {
        assert!(TermFile::decode(9, &value[..cut]).is_err());
    }
}
