//! The published Go client.

use martlet_conformance::language::Language;
use martlet_conformance::{Result, transactions};

martlet_conformance::suite!(Language::Go);

#[test]
fn transactions_end_as_their_producer_says_through_a_kill_of_the_broker_and_of_the_producer() -> Result<()> {
    with(transactions::end_to_end)
}
