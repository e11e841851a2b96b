//! The published Go client.

use martlet_conformance::language::Language;
use martlet_conformance::{Result, retries};

martlet_conformance::suite!(Language::Go);

#[test]
fn a_send_whose_answer_is_lost_is_tried_again_and_stored_once_where_the_topic_asks_for_it() -> Result<()> {
    with(retries::lost_answers)
}
