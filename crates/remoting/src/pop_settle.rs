//! Settling popped messages: acknowledged one by one or together, or made invisible for another time.

use crate::answer::{Answer, Denied};
use crate::codec::code::response;
use crate::codec::fields::{FieldError, Fields};
use crate::codec::json::Json;
use crate::codec::shown;
use crate::front::Front;
use crate::pop_handle::{self, PopHandle};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use martlet_broker::{MarkedPlace, Refusal};
use martlet_model::{QueueOffset, limits};
use std::collections::BTreeMap;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A delivery that is over is what clients know as a message that does not exist.
fn denied(refusal: Refusal) -> Denied {
    match refusal {
        Refusal::HandleLapsed { .. } | Refusal::HandleSuperseded | Refusal::HandleForged { .. } => {
            Denied::new(response::NO_MESSAGE, refusal.to_string())
        }
        other => other.into(),
    }
}

fn invalid(remark: impl Into<String>) -> Denied {
    Denied::new(response::INVALID_PARAMETER, remark)
}

/// Group and topic of a request.
type Names = (String, String);

impl Front {
    /// The delivery that a request names, which says where it is twice.
    fn delivery(&self, fields: &Fields<'_>) -> Result<MarkedPlace, Denied> {
        let (queue, offset) = (fields.queue()?, fields.u64("offset")?);
        let handle = PopHandle::parse(fields.text(pop_handle::FIELD)?)?;
        self.check_broker(handle.broker)?;
        let place = handle.place;
        if (place.index, place.offset.0) != (queue, offset) {
            let (index, at) = (place.index, place.offset);
            let remark =
                format!("queueId {queue} and offset {offset} differ from field extraInfo, which says {index} and {at}");
            return Err(invalid(remark));
        }
        Ok(place)
    }

    fn check_broker(&self, named: &str) -> Result<(), Denied> {
        if named == self.broker.broker_name() {
            return Ok(());
        }
        let shown = shown(named);
        Err(invalid(format!("the message was handed out by broker {shown}, this one is {}", self.broker.broker_name())))
    }

    /// A message is settled.
    pub(crate) async fn ack(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let (group, topic) = (fields.text("consumerGroup")?, fields.text("topic")?);
        let place = self.delivery(fields)?;
        let answers = self.broker.ack_marked(group, topic, vec![place]).await.map_err(denied)?;
        answers.into_iter().try_for_each(|answer| answer.map_err(denied))?;
        Ok(Answer::done())
    }

    /// A message stays invisible for so long from now; the answer holds what the next delivery handle is made of.
    pub(crate) async fn change_invisible(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let (group, topic) = (fields.text("consumerGroup")?, fields.text("topic")?);
        let millis = fields.i64("invisibleTime")?;
        let place = self.delivery(fields)?;
        let mark = self.broker.change_invisible_marked(group, topic, place, millis).await.map_err(denied)?;
        let popped = martlet_broker::wall_clock().0;
        Ok(Answer::done().with("popTime", popped).with("invisibleTime", millis).with("reviveQid", mark))
    }

    /// Messages are settled; done if all of them are.
    pub(crate) async fn batch_ack(&self, body: &[u8]) -> Result<Answer, Denied> {
        let said = Json::parse(body, "body")?;
        if let Some(broker) = said.text("brokerName") {
            self.check_broker(broker)?;
        }
        let acks = batch(&said)?;
        let count: usize = acks.values().map(Vec::len).sum();
        let (mut failed, mut first) = (0, None);
        for ((group, topic), places) in acks {
            for answer in self.broker.ack_marked(&group, &topic, places).await.map_err(denied)? {
                if let Err(refusal) = answer {
                    failed += 1;
                    first.get_or_insert_with(|| denied(refusal));
                }
            }
        }
        match first {
            None => Ok(Answer::done()),
            Some(Denied { code, remark }) => Err(Denied::new(
                code,
                format!("{failed} of {count} messages are not settled, the first because: {remark}"),
            )),
        }
    }
}

/// The deliveries that a batch names, by group and topic.
fn batch(said: &Json) -> Result<BTreeMap<Names, Vec<MarkedPlace>>, Denied> {
    let mut acks: BTreeMap<Names, Vec<MarkedPlace>> = BTreeMap::new();
    let mut count = 0;
    let entries = said.items("acks");
    if entries.is_empty() {
        return Err(FieldError::Missing { name: "acks" }.into());
    }
    for entry in entries {
        // Each has a short name and a long one.
        let find = |short: &str, long: &'static str| {
            let found = entry.text(short).or_else(|| entry.text(long));
            found.ok_or(FieldError::Missing { name: long })
        };
        let wrong = |name: &'static str, value: &str, expected: &'static str| {
            Denied::from(FieldError::Value { name, value: shown(value), expected })
        };
        let number = |short: &str, long: &'static str| {
            let text = find(short, long)?;
            text.parse::<u64>().map_err(|_| wrong(long, text, "a whole number from 0 on"))
        };
        let (group, topic) = (find("c", "consumerGroup")?, find("t", "topic")?);
        let retry = find("r", "retry")?;
        if retry != "0" {
            return Err(wrong("retry", retry, "0, which this broker gives out"));
        }
        let (start, queue) = (number("so", "startOffset")?, number("q", "queueId")?);
        let index =
            u32::try_from(queue).map_err(|_| invalid(format!("field queueId is {queue}, which no queue has")))?;
        let mark = find("rq", "reviveQueueId")?;
        let mark =
            pop_handle::mark(mark).ok_or_else(|| wrong("reviveQueueId", mark, "one that this broker gives out"))?;
        let bits = find("b", "bitSet")?;
        let bytes = BASE64.decode(bits).map_err(|_| wrong("bitSet", bits, "base64"))?;
        let set = bytes
            .iter()
            .zip(0_u64..)
            .flat_map(|(byte, at)| (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| at * 8 + bit));
        for bit in set {
            count += 1;
            if count > limits::ACK_BATCH_MAX {
                let max = limits::ACK_BATCH_MAX;
                return Err(invalid(format!("field acks names more than {max} messages, the limit")));
            }
            let offset = QueueOffset(start.saturating_add(bit));
            let place = MarkedPlace { index, offset, mark };
            acks.entry((group.to_owned(), topic.to_owned())).or_default().push(place);
        }
    }
    Ok(acks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<BTreeMap<Names, Vec<MarkedPlace>>, String> {
        batch(&Json::parse(text.as_bytes(), "body").unwrap()).map_err(|denied| denied.remark)
    }

    fn entry(change: (&str, &str)) -> String {
        let fields = [
            ("c", "g"),
            ("t", "T"),
            ("r", "0"),
            ("so", "10"),
            ("q", "3"),
            ("rq", "7"),
            ("pt", "1"),
            ("it", "1"),
            ("b", "BQE="),
        ];
        let fields = fields.map(|(name, value)| {
            let value = if name == change.0 { change.1 } else { value };
            format!("\"{name}\":\"{value}\"")
        });
        format!("{{\"acks\":[{{{}}}]}}", fields.join(","))
    }

    #[test]
    fn bits_are_counted_from_the_start_offset_and_both_kinds_of_names_are_read() {
        let long = r#"{"acks":[{"consumerGroup":"g","topic":"T","retry":"0","startOffset":10,"queueId":3,
            "reviveQueueId":7,"popTime":1,"invisibleTime":1,"bitSet":"BQE"}]}"#;
        for text in [entry(("", "")), long.to_owned()] {
            let acks = parse(&text).unwrap();
            let places = &acks[&("g".to_owned(), "T".to_owned())];
            assert_eq!(places.iter().map(|place| place.offset.0).collect::<Vec<_>>(), [10, 12, 18]);
            assert!(places.iter().all(|place| (place.index, place.mark) == (3, 7)));
        }
    }

    #[test]
    fn what_is_absurd_is_refused_by_name() {
        for (change, named) in [
            (("r", "1"), "field retry is"),
            (("so", "-1"), "field startOffset is"),
            (("q", "4294967296"), "field queueId is"),
            (("rq", "2147483648"), "field reviveQueueId is"),
            (("b", "%"), "field bitSet is"),
        ] {
            let error = parse(&entry(change)).unwrap_err();
            assert!(error.starts_with(named), "{error}");
        }
        let ones = BASE64.encode(vec![0xff; 200]);
        assert_eq!(parse(&entry(("b", &ones))).unwrap_err(), "field acks names more than 1024 messages, the limit");
        assert_eq!(parse("{\"acks\":[]}").unwrap_err(), "field acks is missing");
        assert_eq!(parse("{\"acks\":[{\"c\":\"g\"}]}").unwrap_err(), "field topic is missing");
        assert!(parse(&entry(("so", "18446744073709551615"))).is_ok());
    }
}
