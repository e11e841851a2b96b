//! Heartbeats and good-byes.

use crate::answer::{Answer, Denied};
use crate::codec::code::response;
use crate::codec::fields::Fields;
use crate::codec::header::{Header, language_name};
use crate::codec::json::Json;
use crate::codec::version;
use crate::front::Front;
use crate::link::Link;
use crate::producers::Client;
use martlet_broker::{CLIENT_ID_BYTES_MAX, ClientInfo, ClientRole};
use std::sync::Arc;

/// Longest name of a producer group, in bytes; old clients take so many.
pub(crate) const PRODUCER_GROUP_BYTES_MAX: usize = 255;
/// Every client has a producer of this group for itself.
const INNER_PRODUCER: &str = "CLIENT_INNER_PRODUCER";

impl Front {
    /// A client is alive, and says which groups it is of.
    pub(crate) async fn heartbeat(&self, link: &Arc<Link>, header: &Header, body: &[u8]) -> Result<Answer, Denied> {
        let said = Json::parse(body, "body")?;
        let client_id = client_id(said.text("clientID"), "clientID")?;
        let mut groups = Vec::new();
        for producer in said.items("producerDataSet") {
            let group = producer.text("groupName").unwrap_or("");
            if group.is_empty() || group.len() > PRODUCER_GROUP_BYTES_MAX {
                let bytes = group.len();
                let remark = format!("groupName has {bytes} bytes, not from 1 to {PRODUCER_GROUP_BYTES_MAX}");
                return Err(Denied::new(response::INVALID_PARAMETER, remark));
            }
            groups.push(group);
        }
        if groups.iter().any(|group| *group != INNER_PRODUCER) {
            self.broker.client_seen(ClientInfo {
                client_id: client_id.clone(),
                language: language_name(header.language).to_owned(),
                version: version::name(header.version),
                remote: link.peer.to_string(),
                role: ClientRole::Producer { topics: Vec::new() },
            })?;
        }
        let limit = self.limits.groups_per_connection_max;
        let client = Client {
            id: client_id.clone(),
            peer: link.peer,
            language: header.language,
            version: header.version,
            heard: martlet_broker::wall_clock(),
        };
        if !self.producers.heard(link, client, &groups, limit) {
            let remark = format!("producerDataSet brings the connection to more than {limit} groups, the limit");
            return Err(Denied::new(response::SYSTEM_BUSY, remark));
        }
        // One group that is refused keeps none of the others out.
        let mut refused = None;
        for consumer in said.items("consumerDataSet") {
            if let Err(denied) = self.consumer_heard(link, header, &client_id, consumer).await {
                refused.get_or_insert(denied);
            }
        }
        refused.map_or_else(|| Ok(Answer::done()), Err)
    }

    /// A client leaves a group.
    pub(crate) fn unregister(&self, link: &Arc<Link>, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let client_id = client_id(fields.optional("clientID"), "clientID")?;
        if let Some(group) = fields.optional("consumerGroup").filter(|group| !group.is_empty()) {
            self.consumer_left(link, group, &client_id);
        }
        if let Some(group) = fields.optional("producerGroup") {
            self.producers.leave(link.number, group);
        }
        Ok(Answer::done())
    }
}

fn client_id(text: Option<&str>, field: &str) -> Result<Arc<str>, Denied> {
    match text {
        Some(id) if !id.trim().is_empty() && id.len() <= CLIENT_ID_BYTES_MAX => Ok(Arc::from(id)),
        Some(id) if !id.trim().is_empty() => {
            let remark = format!("{field} has {} bytes, the limit is {CLIENT_ID_BYTES_MAX}", id.len());
            Err(Denied::new(response::INVALID_PARAMETER, remark))
        }
        _ => Err(Denied::new(response::INVALID_PARAMETER, format!("field {field} is missing"))),
    }
}
