//! What tools ask of one consumer: the broker passes it on over the consumer's connection, and the answer back.

use crate::answer::{Answer, Denied};
use crate::codec::code::{request, response};
use crate::codec::fields::Fields;
use crate::codec::header::Header;
use crate::codec::shown;
use crate::codec::{ids, version};
use crate::connection::Link;
use crate::front::Front;
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::time::Duration;

/// How long a consumer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer that is passed on, in bytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Clients know such requests from this version on: 3.1.8-SNAPSHOT.
const VERSION_MIN: i32 = 62;

impl Front {
    /// How a consumer of a group is: its queues, subscriptions and figures.
    pub(crate) async fn consumer_running_info(&self, header: &Header, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let link = self.consumer_to_ask(fields)?;
        self.ask_consumer(&link, request::GET_CONSUMER_RUNNING_INFO, fields, header.fields.clone(), Bytes::new()).await
    }

    /// Has a consumer of a group consume one message, past all queues: nobody's progress moves.
    pub(crate) async fn consume_directly(&self, header: &Header, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let link = self.consumer_to_ask(fields)?;
        let id = fields.text("msgId")?;
        let Some((_, at)) = ids::read_offset_id(id) else {
            let remark = format!("msgId {} is not an id with a store's address and place", shown(id));
            return Err(Denied::new(response::INVALID_PARAMETER, remark));
        };
        let Some(message) = self.broker.message_at(at).await? else {
            return Err(Denied::new(response::SYSTEM_ERROR, format!("no message has the id {id}")));
        };
        let mut body = BytesMut::new();
        self.show(&link, &mut body, &message).await?;
        // Consumers answer by the topic's and the group's flags, of which this broker has none.
        let told = [("brokerName", self.broker.broker_name()), ("topicSysFlag", "0"), ("groupSysFlag", "0")];
        let mut given = header.fields.clone();
        given.retain(|(name, _)| !told.iter().any(|(known, _)| name == known));
        given.extend(told.map(|(name, value)| (name.to_owned(), value.to_owned())));
        self.ask_consumer(&link, request::CONSUME_MESSAGE_DIRECTLY, fields, given, body.freeze()).await
    }

    /// The connection of the consumer that is named.
    fn consumer_to_ask(&self, fields: &Fields<'_>) -> Result<Arc<Link>, Denied> {
        let (group, client) = (fields.text("consumerGroup")?, fields.text("clientId")?);
        let failed = |what: &str| {
            let remark = format!("consumer {} of group {} {what}", shown(client), shown(group));
            Denied::new(response::SYSTEM_ERROR, remark)
        };
        let link = self.consumer(group, client).ok_or_else(|| failed("is not connected over TCP"))?;
        match self.producers.version(link.number, client) {
            Some(ordinal) if ordinal < VERSION_MIN => {
                Err(failed(&format!("has version {}, which cannot be asked", version::name(ordinal))))
            }
            _ => Ok(link),
        }
    }

    /// Asks a consumer, and gives back its own answer.
    async fn ask_consumer(
        &self,
        link: &Link,
        code: i32,
        fields: &Fields<'_>,
        given: Vec<(String, String)>,
        body: Bytes,
    ) -> Result<Answer, Denied> {
        let (group, client) = (shown(fields.text("consumerGroup")?), shown(fields.text("clientId")?));
        let Some(answer) = link.ask(code, given, body, PATIENCE).await else {
            return Err(match self.link(link.number) {
                None => Denied::new(response::SYSTEM_ERROR, format!("consumer {client} of group {group} has gone")),
                Some(_) => {
                    let limit = PATIENCE.as_secs();
                    let remark = format!("consumer {client} of group {group} did not answer within {limit} s");
                    Denied::new(response::CONSUME_MSG_TIMEOUT, remark)
                }
            });
        };
        let bytes = answer.body.len();
        if bytes > ANSWER_BYTES_MAX {
            let remark = format!("the answer of consumer {client} has {bytes} bytes, the limit is {ANSWER_BYTES_MAX}");
            return Err(Denied::new(response::SYSTEM_ERROR, remark));
        }
        let (code, remark) = (answer.header.code, answer.header.remark);
        Ok(Answer { code, remark, body: answer.body, ..Answer::default() })
    }
}
