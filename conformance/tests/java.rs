//! The published Java client.

use martlet_conformance::language::{Language, Program};
use martlet_conformance::{Result, checks, transactions};

fn with(check: impl FnOnce(&Program) -> Result<()>) -> Result<()> {
    Language::Java.program()?.map_or(Ok(()), |program| check(&program))
}

#[test]
fn simple_consumer_gets_every_field_over_plaintext() -> Result<()> {
    with(|program| checks::round_trip(program, "simple", false))
}

#[test]
fn simple_consumer_gets_every_field_over_tls() -> Result<()> {
    with(|program| checks::round_trip(program, "simple", true))
}

#[test]
fn push_consumer_gets_every_field_over_plaintext() -> Result<()> {
    with(|program| checks::round_trip(program, "push", false))
}

#[test]
fn push_consumer_gets_every_field_over_tls() -> Result<()> {
    with(|program| checks::round_trip(program, "push", true))
}

#[test]
fn a_tag_filter_lets_through_what_it_names() -> Result<()> {
    with(checks::tag_filter)
}

#[test]
fn a_condition_lets_through_what_it_matches() -> Result<()> {
    with(checks::sql_filter)
}

#[test]
fn a_failed_message_comes_again_with_a_higher_attempt() -> Result<()> {
    with(checks::redelivery)
}

#[test]
fn a_changed_invisible_duration_is_kept() -> Result<()> {
    with(checks::change_invisible)
}

#[test]
fn the_client_resumes_after_the_broker_was_killed() -> Result<()> {
    with(checks::restart)
}

#[test]
fn simple_consumer_gets_message_groups_in_order_through_a_kill() -> Result<()> {
    with(|program| checks::ordered(program, "simple"))
}

#[test]
fn push_consumer_gets_message_groups_in_order_through_a_kill() -> Result<()> {
    with(|program| checks::ordered(program, "push"))
}

#[test]
fn delayed_messages_come_when_due_through_a_kill_and_a_recalled_one_never() -> Result<()> {
    with(checks::delayed)
}

#[test]
fn the_highest_priority_comes_first_also_after_a_kill() -> Result<()> {
    with(checks::by_priority)
}

#[test]
fn transactions_end_as_their_producer_says_through_a_kill_of_the_broker_and_of_the_producer() -> Result<()> {
    with(transactions::end_to_end)
}
