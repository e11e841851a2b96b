//! Calls of producers: routes and sends.

use crate::call::Call;
use crate::code::{self, Denied};
use crate::message_in::{self, Chosen};
use crate::proto::v2::{self, Code};
use crate::resource::topic_name;
use crate::route;
use crate::service::Front;
use martlet_broker::{NewMessage, Refusal, SendRequest};
use martlet_model::MessageType;

impl Front {
    pub(crate) async fn query_route(
        &self,
        call: &Call,
        request: v2::QueryRouteRequest,
    ) -> Result<v2::QueryRouteResponse, Denied> {
        call.client_id()?;
        let resource = request.topic.unwrap_or_default();
        let topic = self.broker.topic(&topic_name(Some(&resource))?).await?;
        let endpoints = self.endpoints(call, request.endpoints.as_ref());
        let message_queues = route::queues(&topic, &resource, self.broker.broker_name(), &endpoints);
        Ok(v2::QueryRouteResponse { status: Some(code::ok()), message_queues })
    }

    /// Where this client is told to send its calls.
    pub(crate) fn endpoints(&self, call: &Call, dialled: Option<&v2::Endpoints>) -> v2::Endpoints {
        route::endpoints(self.advertise.as_ref(), dialled, call.head.uri.authority(), call.peer.local)
    }

    pub(crate) async fn send_message(
        &self,
        call: &Call,
        request: v2::SendMessageRequest,
    ) -> Result<v2::SendMessageResponse, Denied> {
        call.client_id()?;
        let now = martlet_broker::wall_clock();
        let delay_max = self.broker.options().delay_max_millis;
        let chosen = Chosen::default();
        let topic = message_in::topic_of(&request.messages)?;
        let mut messages = Vec::with_capacity(request.messages.len());
        for (index, message) in request.messages.into_iter().enumerate() {
            messages.push(message_in::accept(message, index, now, &call.peer.remote, delay_max, &chosen)?);
        }
        if messages.iter().any(|message| message.message_type != MessageType::Normal) {
            self.check_types(&topic, &messages).await?;
        }
        let ids: Vec<String> = messages.iter().map(|message| message.message_id.clone()).collect();
        let sent = self.broker.send(SendRequest { topic, messages, deadline: call.deadline }).await?;
        self.stats.received(sent.len());
        let entries = ids
            .into_iter()
            .zip(sent)
            .map(|(message_id, sent)| v2::SendResultEntry {
                status: Some(code::ok()),
                message_id,
                offset: i64::try_from(sent.offset.0).unwrap_or(i64::MAX),
                recall_handle: sent.recall_handle.unwrap_or_default(),
                transaction_id: sent.transaction_id.unwrap_or_default(),
            })
            .collect();
        Ok(v2::SendMessageResponse { status: Some(code::ok()), entries })
    }

    /// Whether the topic takes messages of these types.
    pub(crate) async fn check_types(&self, topic: &str, messages: &[NewMessage]) -> Result<(), Denied> {
        let config = self.broker.topic(topic).await?;
        for (index, message) in messages.iter().enumerate() {
            let found = message.message_type;
            if !config.kind.accepts().contains(&found) {
                let conflict =
                    Refusal::MessageTypeConflict { topic: topic.to_owned(), accepts: config.kind, found, index };
                return Err(conflict.into());
            }
        }
        Ok(())
    }

    pub(crate) async fn recall_message(
        &self,
        call: &Call,
        request: v2::RecallMessageRequest,
    ) -> Result<v2::RecallMessageResponse, Denied> {
        call.client_id()?;
        let topic = topic_name(request.topic)?;
        let config = self.broker.topic(&topic).await?;
        if !config.kind.accepts().contains(&MessageType::Delay) {
            let text = format!("topic {topic} takes {} messages, none of which is delayed", config.kind.name());
            return Err(Denied::new(Code::MessagePropertyConflictWithType, text));
        }
        let message_id = self.broker.recall(&topic, &request.recall_handle).await?;
        Ok(v2::RecallMessageResponse { status: Some(code::ok()), message_id })
    }
}
