//! The published Java client.

use martlet_conformance::language::Language;
use martlet_conformance::{Result, checks};

martlet_conformance::suite!(Language::Java);

#[test]
fn lite_topics_come_in_order_to_those_who_subscribe_through_a_kill() -> Result<()> {
    with(checks::lite_topics)
}
