//! Transactions: their ends, by producers and by operators, and the checks that producers are sent on their streams.
//!
//! Source: grpc.md section 5.10.

use crate::call::Call;
use crate::code::{self, Denied};
use crate::inspect::{count, shown};
use crate::message_in;
use crate::proto::v1;
use crate::proto::v2::{self, Code, TelemetryCommand, TransactionResolution, telemetry_command::Command};
use crate::resource::{bare_name, topic_name};
use crate::service::Front;
use martlet_broker::{HalfPlace, OpenTransaction, TransactionCheck, producer_group};
use martlet_model::{QueueId, QueueOffset};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Producers that are tried before a check is given up for now.
const PRODUCERS_TRIED: usize = 16;
/// Transactions listed unless the request says otherwise.
const LIST_DEFAULT: u32 = 100;

impl Front {
    pub(crate) async fn end_transaction(
        &self,
        call: &Call,
        request: v2::EndTransactionRequest,
    ) -> Result<v2::EndTransactionResponse, Denied> {
        call.client_id()?;
        let topic = topic_name(request.topic)?;
        if message_in::is_blank(&request.transaction_id) {
            return Err(Denied::new(Code::InvalidTransactionId, "transaction_id is blank"));
        }
        let commit = match TransactionResolution::try_from(request.resolution) {
            Ok(TransactionResolution::Commit) => Some(true),
            Ok(TransactionResolution::Rollback) => Some(false),
            // Its sender does not know yet: it goes on waiting.
            Ok(TransactionResolution::Unspecified) => None,
            Err(_) => {
                let text = format!("resolution {} is not known", request.resolution);
                return Err(Denied::new(Code::BadRequest, text));
            }
        };
        self.broker.end_transaction(&topic, &request.transaction_id, commit).await?;
        Ok(v2::EndTransactionResponse { status: Some(code::ok()) })
    }

    pub(crate) async fn list_transactions(
        &self,
        _call: &Call,
        request: v1::ListTransactionsRequest,
    ) -> Result<v1::ListTransactionsResponse, Denied> {
        let topic = Some(&*request.topic).filter(|topic| !topic.is_empty());
        let from = request.from.map(|from| HalfPlace { queue: QueueId(from.bucket), offset: QueueOffset(from.offset) });
        let limit = count("limit", request.limit, LIST_DEFAULT)?;
        let list = self.broker.transactions(topic, request.given_up, from, limit).await?;
        Ok(v1::ListTransactionsResponse {
            status: Some(code::ok()),
            transactions: list.transactions.into_iter().map(transaction_out).collect(),
            next: list.next.map(|next| v1::TransactionCursor { bucket: next.queue.0, offset: next.offset.0 }),
        })
    }

    pub(crate) async fn resolve_transaction(
        &self,
        _call: &Call,
        request: v1::ResolveTransactionRequest,
    ) -> Result<v1::ResolveTransactionResponse, Denied> {
        let topic = self.broker.topic_of_transaction(&request.transaction_id)?;
        self.broker.end_transaction(&topic, &request.transaction_id, Some(request.commit)).await?;
        Ok(v1::ResolveTransactionResponse { status: Some(code::ok()), topic })
    }

    /// Sends checks to producers until the front shuts down.
    pub(crate) async fn send_checks(
        self: Arc<Self>,
        mut checks: mpsc::Receiver<TransactionCheck>,
        mut stopped: watch::Receiver<bool>,
        store_host: String,
    ) {
        loop {
            let check = tokio::select! {
                check = checks.recv() => check,
                _ = stopped.wait_for(|stop| *stop) => return,
            };
            let Some(check) = check else { return };
            // One that is not sent is not counted, and comes again after the interval.
            match self.send_check(&check, &store_host).await {
                Ok(true) => self.broker.checked(check),
                Ok(false) => tracing::debug!(?check, "no producer that can be asked how a transaction ended"),
                Err(denied) => tracing::warn!(?check, %denied, "a producer cannot be asked how a transaction ended"),
            }
        }
    }

    /// Whether a producer was sent this check.
    async fn send_check(&self, check: &TransactionCheck, store_host: &str) -> Result<bool, Denied> {
        let Some(topic) = self.broker.topic_of_check(check) else { return Ok(false) };
        let Some((message, transaction_id)) = self.broker.read_check(check).await? else { return Ok(false) };
        if self.broker.check_by_group(check, &message) {
            return Ok(true);
        }
        if let Some(group) = producer_group(&message)
            && self.commands.any_listens(group)
            && self.check_v1(group, &message, &transaction_id, store_host)?
        {
            return Ok(true);
        }
        let producers = self.broker.producers_of(&topic.name, PRODUCERS_TRIED);
        let Some(namespace) = self.sessions.listening_in(&producers) else { return Ok(false) };
        let bytes = message.record.len();
        let mut asked = shown(&message, store_host)?;
        // It names the topic, and with it the transaction, in its own words.
        let name = bare_name(&namespace, &message.topic).to_owned();
        asked.topic = Some(v2::Resource { resource_namespace: namespace.clone(), name });
        let command = v2::RecoverOrphanedTransactionCommand { message: Some(asked), transaction_id };
        let command =
            TelemetryCommand { status: None, command: Some(Command::RecoverOrphanedTransactionCommand(command)) };
        Ok(self.sessions.command_any(&producers, &namespace, command, bytes))
    }
}

fn transaction_out(open: OpenTransaction) -> v1::Transaction {
    v1::Transaction {
        transaction_id: open.transaction_id,
        topic: open.topic,
        message_id: open.message_id,
        began_millis: open.began.0,
        due_millis: open.due.0,
        checks: open.checks,
        given_up: open.given_up,
    }
}
