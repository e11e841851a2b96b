//! What every client is put through: one list, a test program for each language.

/// Tests of everything that all clients can do, with the program of one language. What a published client lacks is said aloud by the
/// check that needs it.
#[macro_export]
macro_rules! suite {
    ($language:expr) => {
        $crate::suite!($language, || ());
    };
    // `before` is called before each test.
    ($language:expr, $before:expr) => {
        fn with(check: impl FnOnce(&$crate::language::Program) -> $crate::Result<()>) -> $crate::Result<()> {
            $before();
            $language.program()?.map_or(Ok(()), |program| check(&program))
        }

        #[test]
        fn simple_consumer_gets_every_field_over_plaintext() -> $crate::Result<()> {
            with(|program| $crate::checks::round_trip(program, "simple", false))
        }

        #[test]
        fn simple_consumer_gets_every_field_over_tls() -> $crate::Result<()> {
            with(|program| $crate::checks::round_trip(program, "simple", true))
        }

        #[test]
        fn push_consumer_gets_every_field_over_plaintext() -> $crate::Result<()> {
            with(|program| $crate::checks::round_trip(program, "push", false))
        }

        #[test]
        fn push_consumer_gets_every_field_over_tls() -> $crate::Result<()> {
            with(|program| $crate::checks::round_trip(program, "push", true))
        }

        #[test]
        fn a_tag_filter_lets_through_what_it_names() -> $crate::Result<()> {
            with($crate::checks::tag_filter)
        }

        #[test]
        fn a_condition_lets_through_what_it_matches() -> $crate::Result<()> {
            with($crate::checks::sql_filter)
        }

        #[test]
        fn a_failed_message_comes_again_with_a_higher_attempt() -> $crate::Result<()> {
            with($crate::checks::redelivery)
        }

        #[test]
        fn a_changed_invisible_duration_is_kept() -> $crate::Result<()> {
            with($crate::checks::change_invisible)
        }

        #[test]
        fn the_client_resumes_after_the_broker_was_killed() -> $crate::Result<()> {
            with($crate::checks::restart)
        }

        #[test]
        fn simple_consumer_gets_message_groups_in_order_through_a_kill() -> $crate::Result<()> {
            with(|program| $crate::checks::ordered(program, "simple"))
        }

        #[test]
        fn push_consumer_gets_message_groups_in_order_through_a_kill() -> $crate::Result<()> {
            with(|program| $crate::checks::ordered(program, "push"))
        }

        #[test]
        fn delayed_messages_come_when_due_through_a_kill_and_a_recalled_one_never() -> $crate::Result<()> {
            with($crate::checks::delayed)
        }

        #[test]
        fn lite_topics_come_in_order_to_those_who_subscribe_through_a_kill() -> $crate::Result<()> {
            with(|program| $crate::lite::in_order(program, "lite"))
        }

        #[test]
        fn simple_consumer_gets_lite_topics_in_order_through_a_kill() -> $crate::Result<()> {
            with(|program| $crate::lite::in_order(program, "lite-simple"))
        }

        #[test]
        fn a_lite_topic_of_one_client_goes_to_the_newest_and_stays_there_through_a_kill() -> $crate::Result<()> {
            with($crate::lite::taken_over)
        }

        #[test]
        fn the_highest_priority_comes_first_also_after_a_kill() -> $crate::Result<()> {
            with($crate::checks::by_priority)
        }

        #[test]
        fn transactions_end_as_their_producer_says_through_a_kill_of_the_broker_and_of_the_producer()
        -> $crate::Result<()> {
            with($crate::transactions::end_to_end)
        }
    };
}
