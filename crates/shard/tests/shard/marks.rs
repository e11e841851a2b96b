//! Hand-outs named by place and mark: each settles its own message, and nothing else does.

use crate::world::*;
use martlet_model::QueueOffset;
use martlet_shard::{MarkedPlace, SettleError};

const SUPERSEDED: Result<(), SettleError> = Err(SettleError::Superseded);

#[test]
fn a_mark_settles_the_delivery_it_was_given_for_and_no_other() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(3)).group("audit", max_attempts(3));
    world.send_all("orders", &["a", "b"]);
    let received = world.receive("billing", invisible_secs(30));
    let [a, b] = [&received.0[0], &received.0[1]].map(|delivery| world.marked(delivery));
    let audit = world.receive("audit", invisible_secs(30));
    let swapped = [MarkedPlace { mark: b.mark, ..a }, MarkedPlace { mark: a.mark, ..b }];
    assert_eq!(world.ack_marked("billing", "orders", &swapped), [SUPERSEDED, SUPERSEDED]);
    let foreign = world.marked(&audit.0[0]);
    assert_eq!(world.ack_marked("billing", "orders", &[foreign]), [SUPERSEDED]);
    assert_eq!(world.ack_marked("billing", "orders", &[a, b, a]), [Ok(()), Ok(()), Ok(())], "twice is as good as once");
    assert_eq!(world.progress_of("billing").0[0].committed.0, 2);
    assert_eq!(world.progress_of("audit").0[0].committed.0, 0);
}

#[test]
fn a_lapsed_mark_is_refused_and_the_next_delivery_has_another() {
    let mut world = World::new(2).topic("orders", 1).group("billing", max_attempts(3));
    world.send("orders", "a");
    let first = world.receive("billing", invisible_secs(30)).one();
    let first = world.marked(&first);
    world.advance_millis(30_250);
    let lapsed = Err(SettleError::Lapsed { ago_millis: 250 });
    assert_eq!(world.ack_marked("billing", "orders", &[first]), [lapsed]);
    let second = world.receive("billing", invisible_secs(30)).one();
    assert_eq!(second.attempt, 2);
    assert_eq!(world.ack_marked("billing", "orders", &[first]), [SUPERSEDED]);
    let second = world.marked(&second);
    assert_eq!(world.ack_marked("billing", "orders", &[second]), [Ok(())]);
}

#[test]
fn a_change_gives_a_new_mark_and_kills_the_old_one() {
    let mut world = World::new(3).topic("orders", 1).group("billing", max_attempts(3));
    world.send("orders", "a");
    let first = world.receive("billing", invisible_secs(30)).one();
    let first = world.marked(&first);
    let longer = world.change_marked("billing", "orders", first, 60).unwrap();
    assert_eq!(world.ack_marked("billing", "orders", &[first]), [SUPERSEDED]);
    assert_eq!(world.change_marked("billing", "orders", first, 60), Err(SettleError::Superseded));
    world.advance_millis(59_999);
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0);
    assert_eq!(world.ack_marked("billing", "orders", &[longer]), [Ok(())]);
}

/// What was never handed out, given back, or is nowhere, is not settled by any mark.
#[test]
fn marks_settle_nothing_that_nobody_holds() {
    let mut world = World::new(4).topic("orders", 1).group("billing", max_attempts(3));
    world.send("orders", "a");
    let at = |index, offset, mark| MarkedPlace { index, offset: QueueOffset(offset), mark };
    assert_eq!(world.ack_marked("billing", "orders", &[at(0, 0, 0)]), [SUPERSEDED], "never handed out");
    let first = world.receive("billing", invisible_secs(30)).one();
    let mark = world.marked(&first);
    world.undo(&first.handle);
    for place in [mark, at(0, 0, 0), at(0, 7, mark.mark), at(0, u64::MAX, mark.mark)] {
        assert_eq!(world.ack_marked("billing", "orders", &[place]), [SUPERSEDED], "{place:?}");
    }
    assert_eq!(world.ack_marked("billing", "orders", &[at(9, 0, mark.mark)]), [Err(SettleError::Gone)]);
    assert_eq!(world.receive("billing", invisible_secs(30)).one().attempt, 1);
}

#[test]
fn a_poll_of_one_queue_gets_messages_of_that_queue() {
    let mut world = World::new(5).topic("orders", 2).group("billing", max_attempts(3));
    ["a", "b", "c", "d"].iter().for_each(|body| world.send("orders", body));
    for index in [1, 0] {
        let received = world.receive("billing", invisible_secs(30).queue(index));
        assert!(received.len() > 0 && received.0.iter().all(|delivery| delivery.hand_out.queue_index == index));
    }
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0);
    assert_eq!(world.receive("billing", invisible_secs(30).queue(2)).len(), 0, "there is no such queue");
}
