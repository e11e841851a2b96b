//! Publishing.

use crate::answer::{Answer, Code, Denied};
use crate::auth::body_digest;
use crate::body::Reply;
use crate::connection::Link;
use crate::front::Front;
use crate::message_in::{self, Request};
use crate::target::Target;
use crate::xml_in;
use crate::xml_out::Document;
use hyper::StatusCode;
use martlet_broker::SendRequest;

impl Front {
    /// Stores a message; answers once it is durable.
    pub(crate) async fn publish(&self, link: &Link, target: &Target, body: &[u8]) -> Result<Answer, Denied> {
        let publish = xml_in::publish(body)?;
        let topic = self.broker.untyped_topic(&target.topic).await?;
        let now = martlet_broker::wall_clock();
        let request = Request {
            now,
            peer: &link.peer_text,
            kind: topic.kind,
            delay_max: self.broker.options().delay_max_millis,
            message_id: self.message_id(now),
        };
        let message = message_in::accept(request, &publish)?;
        let (id, is_half) = (message.message_id.clone(), message.polled);
        let send = SendRequest { topic: target.topic.clone(), messages: vec![message], deadline: None };
        let sent = self.broker.send(send).await?.into_iter().next().unwrap_or_default();
        let mut document = Document::begin("Message", 256);
        document.element("MessageId", &id);
        document.element("MessageBodyMD5", &body_digest(publish.body.unwrap_or_default().as_bytes()));
        if let Some(handle) = sent.transaction_id.filter(|_| is_half) {
            document.element("ReceiptHandle", &handle);
        }
        Ok(Answer { status: StatusCode::CREATED, code: Code::Ok, reply: Reply::new(document.finish()) })
    }
}
