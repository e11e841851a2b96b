//! Deliveries named by place and mark.

use super::{Delivery, World};
use martlet_shard::{Command, MarkedPlace, Output, SettleError};

impl World {
    /// Where a delivery's message is, with its mark.
    pub fn marked(&self, delivery: &Delivery) -> MarkedPlace {
        let mark = self.decode(&delivery.handle).unwrap().mark(&self.shard().shard().handle_key().1);
        MarkedPlace { index: delivery.hand_out.queue_index, offset: delivery.hand_out.offset, mark }
    }

    /// Acknowledges messages of a topic by their places and marks.
    pub fn ack_marked(&mut self, group: &str, topic: &str, places: &[MarkedPlace]) -> Vec<Result<(), SettleError>> {
        let (group, topic, places) = (self.groups[group].id, self.topics[topic].id, places.to_vec());
        match self.ask(|token| Command::AckMarked { group, topic, places, token }) {
            Output::Acked(answers) => answers,
            other => panic!("an ack was answered with {other:?}"),
        }
    }

    /// The newest mark.
    pub fn change_marked(
        &mut self,
        group: &str,
        topic: &str,
        place: MarkedPlace,
        secs: i64,
    ) -> Result<MarkedPlace, SettleError> {
        let (group, topic) = (self.groups[group].id, self.topics[topic].id);
        let invisible_millis = secs * 1_000;
        match self.ask(|token| Command::ChangeMarked { group, topic, place, invisible_millis, token }) {
            Output::Changed(answer) => {
                answer.map(|handle| MarkedPlace { mark: handle.mark(&self.shard().shard().handle_key().1), ..place })
            }
            other => panic!("a change of invisibility was answered with {other:?}"),
        }
    }
}
