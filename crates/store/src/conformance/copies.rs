//! Copies of a store of one engine in another.

use super::{Batches, Model, Random, Subject, block_on};
use crate::copy::{Contents, CopyError, Portions, copy, missing};
use crate::{Batch, Store};

/// A copy is cut off, the source is used, the copy goes on until it is whole, and then takes batches of its own.
pub fn a_copy_that_is_cut_off_goes_on_and_reads_like_its_source<S, T>(source: &mut S, target: &mut T, seed: u64)
where
    S: Subject<Store: Store<Reader: Contents>>,
    T: Subject<Store: Store<Reader: Contents>>,
{
    let (mut random, mut batches) = (Random::new(seed), Batches::new(seed));
    let (mut model, mut copied) = (Model::default(), Model::default());
    for _ in 0..3 {
        fill(source, &mut model, &mut batches, 20 + random.below(40));
        let mut left = random.below(8);
        let cut = copy_some(source, target, &model, &mut copied, || {
            left = left.saturating_sub(1);
            left > 0
        });
        assert!(cut.is_err() || copied.holds_the_same_as(&model), "seed {seed}: a whole copy differs");
    }
    copy_some(source, target, &model, &mut copied, || true).unwrap();
    assert!(copied.holds_the_same_as(&model), "seed {seed}: the copy differs");
    fill(target, &mut copied, &mut batches, 20);
    let mut store = target.open();
    let ticket = store.commit(Batch { time: copied.time(), ops: Vec::new() });
    target.wait(&mut store, ticket);
    let source_store = source.open();
    let nothing = block_on(missing(&store.reader(), &source_store.reader()));
    assert!(nothing.is_ok(), "seed {seed}: {nothing:?}");
    source.close(source_store);
    copied.compare(&store.reader()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    target.close(store);
}

fn fill<S: Subject>(subject: &mut S, model: &mut Model, batches: &mut Batches, count: u64) {
    let mut store = subject.open();
    for _ in 0..count {
        let batch = batches.next(model);
        model.apply(&batch);
        let ticket = store.commit(batch);
        subject.wait(&mut store, ticket);
    }
    subject.close(store);
}

/// Copies until `goes_on` says no, batch by batch durable; opens and closes both.
fn copy_some<S, T>(
    source: &mut S,
    target: &mut T,
    model: &Model,
    copied: &mut Model,
    mut goes_on: impl FnMut() -> bool,
) -> Result<(), CopyError>
where
    S: Subject<Store: Store<Reader: Contents>>,
    T: Subject<Store: Store<Reader: Contents>>,
{
    let from = source.open();
    let mut to = target.open();
    let reader = to.reader();
    let portions = Portions { window: 40, batch_bytes: 4_000, batch_ops: 20 };
    let outcome = {
        let hand_over = async |batch: Batch| {
            if !goes_on() {
                return Err(CopyError::Write("cut off".to_owned()));
            }
            copied.apply(&batch);
            let ticket = to.commit(batch);
            target.wait(&mut to, ticket);
            Ok(())
        };
        block_on(copy(&from.reader(), &reader, model.time(), portions, hand_over, |_| {}))
    };
    drop(reader);
    if outcome.is_ok() {
        copied.compare(&to.reader()).unwrap();
        let left = block_on(missing(&from.reader(), &to.reader())).unwrap();
        assert_eq!(left.messages, 0);
    }
    source.close(from);
    target.close(to);
    outcome.map(drop)
}
