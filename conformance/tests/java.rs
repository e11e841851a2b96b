//! The published Java client.

use martlet_conformance::language::Language;
use martlet_conformance::{Result, checks, transactions};

martlet_conformance::suite!(Language::Java);

#[test]
fn the_highest_priority_comes_first_also_after_a_kill() -> Result<()> {
    with(checks::by_priority)
}

#[test]
fn transactions_end_as_their_producer_says_through_a_kill_of_the_broker_and_of_the_producer() -> Result<()> {
    with(transactions::end_to_end)
}
