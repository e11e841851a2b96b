use super::*;
use martlet_store::conformance::Random;

/// The store's part: what the operations leave.
#[derive(Default)]
struct Kept(BTreeMap<Bytes, KeyState>);

impl Kept {
    fn apply(&mut self, writes: &mut Writes) {
        let mut ops = Vec::new();
        writes.flush(GroupId(1), QueueId(2), &mut ops);
        for op in ops {
            match op {
                Op::Put { key, image, .. } => {
                    assert!(self.0.insert(key, KeyState { image: Some(image), deltas: Vec::new() }).is_none());
                }
                Op::Delta { key, delta } => self.0.get_mut(&key).unwrap().deltas.push(delta),
                Op::Remove { key } => assert!(self.0.remove(&key).is_some(), "what is removed was there"),
                other => panic!("{other:?}"),
            }
        }
    }

    fn restore(&self) -> Parked {
        let mut parked = Parked::default();
        self.0.iter().filter_map(|(key, state)| summary(key, state).unwrap()).for_each(|chunk| parked.restore(&chunk));
        parked
    }

    fn load(&self, start: u64) -> Vec<u64> {
        let state = self.0.get(&keys::parked(GroupId(1), QueueId(2), 9, start));
        state.map_or_else(Vec::new, |state| decode(start, state).unwrap())
    }
}

#[test]
fn offsets_leave_in_the_order_they_came_through_stores_reads_and_retention() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let (mut parked, mut writes, mut kept) = (Parked::default(), Writes::default(), Kept::default());
        let mut model: VecDeque<u64> = VecDeque::new();
        let (mut next, mut below) = (0, 0);
        for step in 0..600 {
            match random.below(12) {
                0..=4 => {
                    for _ in 0..=random.below(60) {
                        next += 1 + random.below(300);
                        parked.push(9, next, random.below(4) > 0, &mut writes);
                        model.push_back(next);
                    }
                }
                5..=7 => {
                    let taken = parked.take(9, random.below(64) as usize, &mut writes);
                    for offset in taken {
                        assert_eq!(model.pop_front(), Some(offset), "seed {seed} step {step}");
                    }
                }
                8 | 9 => {
                    if let Some(start) = parked.next_load() {
                        kept.apply(&mut writes);
                        parked.loaded(9, start, &kept.load(start), below, &mut writes).unwrap();
                    }
                }
                10 => {
                    below += random.below(4_000);
                    below = below.min(next + 1);
                    parked.drop_below(9, below, &mut writes);
                    while model.front().is_some_and(|&first| first < below) {
                        model.pop_front();
                    }
                }
                _ => {
                    kept.apply(&mut writes);
                    if random.below(2) == 0 {
                        parked = kept.restore();
                        // As the shard does after loading.
                        parked.drop_below(9, below, &mut writes);
                    }
                }
            }
            assert!(parked.in_memory() < 2 * CHUNK as usize, "seed {seed} step {step}");
            // Of a chunk that is not in memory it is not known yet how many retention took.
            let unsure = parked.next_load_is_unsure(below);
            assert!(unsure || parked.count() == model.len() as u64, "seed {seed} step {step}");
            assert!(parked.first() <= model.front().copied() || model.is_empty(), "seed {seed} step {step}");
        }
    }
}

impl Parked {
    fn next_load_is_unsure(&self, below: u64) -> bool {
        self.chunks.front().is_some_and(|chunk| !chunk.resident && chunk.first <= below)
    }
}

#[test]
fn a_chunk_is_written_as_its_format_says() {
    let (mut parked, mut writes, mut kept) = (Parked::default(), Writes::default(), Kept::default());
    [7, 8, 300].into_iter().for_each(|offset| parked.push(9, offset, true, &mut writes));
    kept.apply(&mut writes);
    parked.push(9, 301, true, &mut writes);
    parked.take(9, 2, &mut writes);
    kept.apply(&mut writes);
    let state = kept.0.get(&keys::parked(GroupId(1), QueueId(2), 9, 7)).unwrap();
    assert_eq!(state.image.as_deref(), Some(&[1, 0xa4, 2][..]));
    assert_eq!(state.deltas, [Bytes::from_static(&[1, 0, 2])]);
    assert_eq!(kept.load(7), [300, 301]);
    parked.take(9, 2, &mut writes);
    kept.apply(&mut writes);
    assert!(kept.0.is_empty());
    for broken in [&[0x80][..], &[0, 5], &[0]] {
        assert!(decode(7, &KeyState { image: Some(Bytes::copy_from_slice(broken)), deltas: vec![] }).is_err());
    }
}
