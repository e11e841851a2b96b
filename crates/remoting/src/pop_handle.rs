//! What a client shows to settle a message that it has popped: the property `POP_CK` of the message, or what the client makes of the
//! answer to a change.
//!
//! Eight fields, separated by spaces:
//!
//! | field | is |
//! | --- | --- |
//! | start offset | that of the message: each is acknowledged on its own |
//! | pop time | when it was handed out, ms |
//! | invisible time | for how long, ms |
//! | revive queue | the mark of the delivery (`martlet_model::handle`); in the reference the number of a queue |
//! | retry | 0: retries come from where the message is |
//! | broker | its name |
//! | queue | number of the queue |
//! | offset | place of the message in it |
//!
//! Clients take the fields apart and put them together anew, all but the last three as numbers. So there is no room for a receipt
//! handle, and a delivery is named by the message's place and the mark.

use crate::codec::fields::FieldError;
use crate::codec::shown;
use martlet_broker::MarkedPlace;
use martlet_model::QueueOffset;
use martlet_model::handle::MARK_MAX;
use std::fmt;

/// The field of requests that carries it.
pub(crate) const FIELD: &str = "extraInfo";

/// A delivery, as clients carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PopHandle<'a> {
    /// When the message was handed out, ms.
    pub popped: i64,
    /// For how long, ms.
    pub invisible_millis: i64,
    /// The broker that did.
    pub broker: &'a str,
    /// Which.
    pub place: MarkedPlace,
}

impl fmt::Display for PopHandle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { popped, invisible_millis, broker, place: MarkedPlace { index, offset, mark } } = self;
        write!(f, "{offset} {popped} {invisible_millis} {mark} 0 {broker} {index} {offset}")
    }
}

/// The mark that a number of a revive queue is.
pub(crate) fn mark(text: &str) -> Option<u32> {
    text.parse().ok().filter(|mark| *mark <= MARK_MAX)
}

impl<'a> PopHandle<'a> {
    /// Reads it back. Further fields are passed over.
    pub fn parse(text: &'a str) -> Result<Self, FieldError> {
        let wrong = || {
            let expected = "the 8 fields of a popped message";
            FieldError::Value { name: FIELD, value: shown(text), expected }
        };
        let fields: Vec<&str> = text.splitn(9, ' ').collect();
        let [_, popped, invisible, mark_text, "0", broker, index, offset, ..] = fields[..] else { return Err(wrong()) };
        let number = |text: &str| text.parse::<i64>().map_err(|_| wrong());
        let (popped, invisible_millis) = (number(popped)?, number(invisible)?);
        let mark = mark(mark_text).ok_or_else(wrong)?;
        let (index, offset) = (index.parse().map_err(|_| wrong())?, offset.parse().map_err(|_| wrong())?);
        Ok(Self { popped, invisible_millis, broker, place: MarkedPlace { index, offset: QueueOffset(offset), mark } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            popped in any::<i64>(),
            invisible_millis in any::<i64>(),
            index in any::<u32>(),
            offset in any::<u64>(),
            mark in 0..=MARK_MAX,
            more in "( [a-z0-9]{1,9})?",
        ) {
            let place = MarkedPlace { index, offset: QueueOffset(offset), mark };
            let handle = PopHandle { popped, invisible_millis, broker: "broker-a", place };
            let text = format!("{handle}{more}");
            prop_assert_eq!(PopHandle::parse(&text), Ok(handle));
        }

        #[test]
        fn no_text_panics(text in "[0-9 a-z-]{0,60}|\\PC{0,60}") {
            let _ = PopHandle::parse(&text);
        }
    }

    #[test]
    fn what_is_not_one_is_refused() {
        for bad in [
            "",
            "1 2 3 4 0 b 0",
            "1 2 3 4 1 b 0 1",
            "1 2 3 -4 0 b 0 1",
            "1 2 3 2147483648 0 b 0 1",
            "1 2 3 4 0 b -1 1",
            "1 2 3 4 0 b 0 -1",
            "1 x 3 4 0 b 0 1",
            "1  2 3 4 0 b 0 1",
        ] {
            let error = PopHandle::parse(bad).unwrap_err().to_string();
            assert!(error.starts_with("field extraInfo is "), "{error}");
        }
    }
}
