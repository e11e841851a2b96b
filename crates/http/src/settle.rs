//! Acknowledgements, and ends of transactions.

use crate::answer::{Answer, Code, Denied, code};
use crate::body::Reply;
use crate::front::{Front, done};
use crate::target::{BATCH_MAX, Mode, Target};
use crate::{xml_in, xml_out};
use hyper::StatusCode;
use martlet_broker::Refusal;

impl Front {
    /// Settles what the handles name. 204: all of it; 404: a list of what was refused, the rest is settled.
    pub(crate) async fn settle(&self, target: &Target, body: &[u8]) -> Result<Answer, Denied> {
        let handles = xml_in::handles(body)?;
        if handles.is_empty() {
            return Err(Denied::new(Code::MissingReceiptHandle, "there is no element ReceiptHandle"));
        }
        let max = if target.mode == Mode::Any { BATCH_MAX as usize } else { 1 };
        if handles.len() > max {
            return Err(Denied::argument(format!(
                "there are {} elements ReceiptHandle, the limit is {max}",
                handles.len()
            )));
        }
        let answers = match target.mode {
            Mode::Any => self.broker.ack(target.needs_group()?, &target.topic, handles.clone()).await?,
            // Who ends a transaction is not asked for a group: one SDK leaves it out.
            mode => {
                let handle = handles.first().map_or("", String::as_str);
                match self.broker.end_polled(&target.topic, handle, mode == Mode::Commit).await {
                    Err(refusal) if !is_of_handle(&refusal) => return Err(refusal.into()),
                    answer => vec![answer],
                }
            }
        };
        let refused: Vec<_> = handles
            .into_iter()
            .zip(answers)
            .filter_map(|(handle, answer)| Some((handle, answer.err()?)))
            .map(|(handle, refusal)| (handle, code(&refusal).name(), refusal.to_string()))
            .collect();
        let Some((_, first, _)) = refused.first() else { return Ok(done()) };
        self.broker.count_refusal(first);
        let reply = Reply::new(xml_out::errors(&refused));
        Ok(Answer { status: StatusCode::NOT_FOUND, code: Code::ReceiptHandleError, reply })
    }
}

/// Whether a refusal is about the handle alone.
fn is_of_handle(refusal: &Refusal) -> bool {
    matches!(code(refusal), Code::ReceiptHandleError | Code::MessageNotExist)
}
