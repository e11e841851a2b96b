//! Hand-outs that are named by place and mark: of clients whose protocol has no room for a receipt handle.

use crate::command::MarkedPlace;
use crate::shard::Shard;
use martlet_model::handle::{DeliveryNumber, ReceiptHandle};
use martlet_model::{GroupId, QueueId, TopicId};

impl<T> Shard<T> {
    /// The handle of the live hand-out that a place and mark name; else one that settles nothing.
    pub(crate) fn marked_handle(&self, group: GroupId, topic: TopicId, place: &MarkedPlace) -> ReceiptHandle {
        let queue = self.queue_at(topic, place.index).unwrap_or(QueueId(u64::MAX));
        let MarkedPlace { offset, mark, .. } = *place;
        let slot = self.progress.get(&(group, queue)).and_then(|progress| progress.slot(offset));
        // A slot that nobody holds a handle of has the number 0.
        let delivery = slot.map(|slot| slot.delivery).filter(|delivery| delivery.0 != 0);
        let handle = |delivery| ReceiptHandle { shard: self.options.shard, group, topic, queue, offset, delivery };
        let live = delivery.map(handle).filter(|handle| handle.mark(&self.image.handle_key) == mark);
        live.unwrap_or_else(|| handle(DeliveryNumber(u64::MAX)))
    }
}
