//! Request and reply: a message that wants an answer names its sender, and the answer goes to that client, past the store.

use crate::answer::{Answer, Denied};
use crate::codec::code::{request, response};
use crate::codec::header::Header;
use crate::codec::properties::{self, PROPERTY_STRING_BYTES_MAX};
use crate::codec::shown;
use crate::front::Front;
use crate::link::Link;
use crate::message_out::REGION;
use crate::send::Head;
use bytes::Bytes;
use martlet_broker::Refusal;
use martlet_model::limits;
use std::time::Duration;

/// What follows the cluster's name in that of the topic of replies.
const TOPIC_SUFFIX: &str = "_REPLY_TOPIC";
/// Names the client that wants the reply.
const REPLY_TO_CLIENT: &str = "REPLY_TO_CLIENT";
/// When the reply was passed on, ms.
const PUSH_REPLY_TIME: &str = "PUSH_REPLY_TIME";
/// How long the requester may take to say that it has the reply.
const PATIENCE: Duration = Duration::from_secs(10);

impl Front {
    /// Whether replies are sent to this topic. It is in routes only: nothing is stored there.
    pub(crate) fn is_reply_topic(&self, name: &str) -> bool {
        name.strip_suffix(TOPIC_SUFFIX) == Some(self.broker.cluster_name())
    }

    /// Passes a reply on to the client that waits for it; done when that has said so.
    pub(crate) async fn send_reply(&self, link: &Link, header: &Header, body: Bytes) -> Result<Answer, Denied> {
        let head = Head::read(header)?;
        if !self.is_reply_topic(head.topic) {
            return Err(Refusal::TopicNotFound { topic: shown(head.topic) }.into());
        }
        if body.len() > limits::BODY_BYTES_MAX {
            let (bytes, max) = (body.len(), limits::BODY_BYTES_MAX);
            return Err(Denied::illegal(format!("body has {bytes} bytes, the limit is {max}")));
        }
        let properties = properties::parse(head.properties).map_err(|error| Denied::illegal(error.to_string()))?;
        let failed = |remark: String| Denied::new(response::SYSTEM_ERROR, remark);
        let requester = properties.iter().find(|(name, _)| *name == REPLY_TO_CLIENT).map(|(_, value)| *value);
        let requester = requester.ok_or_else(|| failed(format!("property {REPLY_TO_CLIENT} is missing")))?;
        let named = || shown(requester);
        let to = self.producers.client(requester);
        let to = to.ok_or_else(|| failed(format!("the reply is for client {}, which is not connected", named())))?;
        let now = martlet_broker::wall_clock().0;
        let mut text = String::with_capacity(head.properties.len() + 64);
        for (name, value) in properties.iter().filter(|(name, _)| *name != PUSH_REPLY_TIME) {
            properties::put(&mut text, name, value);
        }
        properties::put(&mut text, PUSH_REPLY_TIME, &now.to_string());
        if text.len() > PROPERTY_STRING_BYTES_MAX {
            let (bytes, max) = (text.len(), PROPERTY_STRING_BYTES_MAX);
            return Err(Denied::illegal(format!("properties have {bytes} bytes, the limit is {max}")));
        }
        let queue = head.queue.max(0);
        let told = [
            ("producerGroup", head.group.to_owned()),
            ("topic", head.topic.to_owned()),
            ("defaultTopic", head.default_topic.to_owned()),
            ("defaultTopicQueueNums", head.default_queues.to_string()),
            ("queueId", queue.to_string()),
            ("sysFlag", head.sys_flag.to_string()),
            ("bornTimestamp", head.born.to_string()),
            ("flag", head.flag.to_string()),
            ("properties", text),
            ("reconsumeTimes", "0".to_owned()),
            ("unitMode", "false".to_owned()),
            ("bornHost", link.peer.to_string()),
            ("storeHost", self.addresses.store_host(&to).to_string()),
            ("storeTimestamp", now.to_string()),
        ];
        let answer = to.ask(request::PUSH_REPLY_MESSAGE_TO_CLIENT, told.into_iter().collect(), body, PATIENCE).await;
        let answer = answer.ok_or_else(|| failed(format!("client {} did not say that it has the reply", named())))?;
        if answer.header.code != response::SUCCESS {
            let (code, remark) = (answer.header.code, answer.header.remark.unwrap_or_default());
            let remark: String = remark.chars().take(256).collect();
            return Err(failed(format!("client {} did not take the reply: code {code}, {remark}", named())));
        }
        Ok(Answer::done()
            // It has no place, but clients read one.
            .with("msgId", 0)
            .with("queueId", queue)
            .with("queueOffset", 0)
            .with("MSG_REGION", REGION)
            .with("TRACE_ON", true))
    }
}
