//! Messages that a consumer has failed on and sends back.

use crate::answer::{Answer, Denied};
use crate::codec::fields::Fields;
use crate::front::Front;
use crate::message_in::delay_level_millis;
use martlet_broker::{SendBack, SendBackDelay};
use martlet_model::PhysicalOffset;

impl Front {
    /// A message is to come again, or to become a dead letter; answered once that is durable.
    pub(crate) async fn send_back(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let physical = PhysicalOffset(fields.i64("offset")?);
        let group = fields.text("group")?;
        let level = fields.i32("delayLevel")?;
        let delay = match level {
            ..0 => SendBackDelay::DeadLetter,
            level => delay_level_millis(level.into()).map_or(SendBackDelay::Policy, SendBackDelay::Millis),
        };
        // Negative: as often as the group says.
        let max_reconsume_times = u32::try_from(fields.i32_or("maxReconsumeTimes", -1)?).ok();
        let back = SendBack { group: group.to_owned(), physical, delay, max_reconsume_times };
        self.broker.send_back(back).await?;
        Ok(Answer::done())
    }
}
