//! Transactions: their ends, and the checks that producers of a group are sent.

use crate::answer::{Answer, Denied};
use crate::codec::code::{request, response};
use crate::codec::fields::{FieldError, Fields};
use crate::codec::ids;
use crate::front::Front;
use crate::link::Link;
use crate::message_out::{self, Facts};
use bytes::BytesMut;
use martlet_broker::{FoundMessage, HalfPlace, TransactionCheck};
use martlet_model::PhysicalOffset;
use martlet_model::record::{self, Field};
use std::sync::Arc;

/// Producers that are tried before a check is given up for now.
const PRODUCERS_TRIED: usize = 16;
const COMMIT: i32 = 8;
const ROLLBACK: i32 = 12;
const NOT_KNOWN: i32 = 0;

impl Front {
    /// A producer says how a transaction ended.
    pub(crate) async fn end_transaction(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let group = fields.text("producerGroup")?;
        let queue_offset = fields.u64("tranStateTableOffset")?;
        let physical = PhysicalOffset(fields.i64("commitLogOffset")?);
        let commit = match fields.i32("commitOrRollback")? {
            COMMIT => Some(true),
            ROLLBACK => Some(false),
            NOT_KNOWN => None,
            _ => {
                let (name, expected) = ("commitOrRollback", "8 (commit), 12 (roll back) or 0 (not known)");
                let value = fields.optional(name).unwrap_or("").to_owned();
                return Err(FieldError::Value { name, value, expected }.into());
            }
        };
        let (message_id, transaction_id) = (fields.text("msgId")?, fields.optional("transactionId"));
        let Some((queue, offset)) = physical.place().filter(|(_, offset)| offset.0 == queue_offset) else {
            let remark = format!("tranStateTableOffset {queue_offset} and commitLogOffset {} differ", physical.0);
            return Err(Denied::new(response::SYSTEM_ERROR, remark));
        };
        let ids: Vec<&str> = [Some(message_id), transaction_id].into_iter().flatten().collect();
        self.broker.end_transaction_at(HalfPlace { queue, offset }, &ids, group, commit).await?;
        Ok(Answer::done())
    }

    /// Has the broker tell this front of checks.
    pub(crate) fn listen_for_checks(self: Arc<Self>) {
        let told = Arc::downgrade(&self);
        self.broker.on_check(move |check, message, group| {
            told.upgrade().is_some_and(|front| front.send_check(check, message, group))
        });
    }

    /// Whether a producer of the group was sent this check.
    fn send_check(&self, check: &TransactionCheck, message: &FoundMessage, group: &str) -> bool {
        let producers = self.producers.of(group);
        producers.iter().take(PRODUCERS_TRIED).any(|link| self.send_check_to(link, check, message).unwrap_or(false))
    }

    fn send_check_to(&self, link: &Link, check: &TransactionCheck, message: &FoundMessage) -> Option<bool> {
        let place = check.place;
        let physical = PhysicalOffset::of(place.queue, place.offset)?;
        let store_host = self.addresses.store_host(link);
        let id = record::find(&message.record, |field| match field {
            Field::MessageId(id) => Some(id.to_owned()),
            _ => None,
        })?;
        let checks = check.number.to_string();
        let facts = Facts {
            topic: &message.topic,
            queue: record::chosen_queue(&message.record).unwrap_or(0),
            offset: place.offset.0,
            physical_offset: physical.0,
            stored: message.store_time.0,
            reconsumed: 0,
            store_host,
            cluster: self.broker.cluster_name(),
            is_half: true,
            more: &[("__transactionId__", &id), ("TRANSACTION_CHECK_TIMES", &checks)],
        };
        let mut body = BytesMut::new();
        message_out::encode(&mut body, &message.record, &facts).ok()?;
        let fields = [
            ("tranStateTableOffset", place.offset.to_string()),
            ("commitLogOffset", physical.0.to_string()),
            ("msgId", id.clone()),
            ("transactionId", id.clone()),
            ("offsetMsgId", ids::offset_id(store_host, physical)),
            ("topic", message.topic.to_string()),
            ("bname", self.broker.broker_name().to_owned()),
        ];
        Some(link.tell(request::CHECK_TRANSACTION_STATE, fields.into_iter().collect(), body.freeze()))
    }
}
