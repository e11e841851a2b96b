use super::*;
use crate::pattern::ResourceKind;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 3));

fn entry(resource: &str, actions: &[Action], decision: Decision) -> Entry {
    Entry { resource: resource.parse().unwrap(), actions: actions.to_vec(), sources: Vec::new(), decision }
}

fn policies(entries: &[(&str, Decision)]) -> Policies {
    let mut policies = Policies::default();
    for (resource, decision) in entries {
        // Straight in, so that a test can have a pattern twice.
        policies.custom.push(entry(resource, &[Action::Pub, Action::Sub], *decision));
    }
    policies
}

fn topic<'a>(name: &'a str, actions: &'static [Action]) -> Need<'a> {
    Need { resource: Resource { kind: ResourceKind::Topic, name }, actions }
}

#[test]
fn the_most_specific_entry_counts_and_deny_where_two_are_equal() {
    use Decision::{Allow, Deny};
    for (entries, decision) in [
        (&[][..], None),
        (&[("Group:orders", Allow)], None),
        (&[("*", Allow)], Some(Allow)),
        (&[("*", Allow), ("Topic:*", Deny)], Some(Deny)),
        (&[("*", Deny), ("Topic:*", Allow)], Some(Allow)),
        (&[("Topic:*", Deny), ("Topic:o*", Allow)], Some(Allow)),
        (&[("Topic:order*", Deny), ("Topic:o*", Allow)], Some(Deny)),
        (&[("Topic:o*", Allow), ("Topic:order*", Deny)], Some(Deny)),
        (&[("Topic:orders*", Deny), ("Topic:orders", Allow)], Some(Allow)),
        (&[("Topic:orders", Deny), ("*", Allow)], Some(Deny)),
        (&[("Topic:orders", Allow), ("Topic:orders", Deny)], Some(Deny)),
        (&[("Topic:orders", Deny), ("Topic:orders", Allow)], Some(Deny)),
    ] {
        assert_eq!(policies(entries).decide(&topic("orders", &[Action::Pub]), HERE), decision, "{entries:?}");
    }
}

#[test]
fn one_of_the_actions_is_enough_and_all_is_each() {
    let of = |actions: &[Action]| {
        let mut policies = Policies::default();
        policies.put(PolicyKind::Custom, entry("Topic:orders", actions, Decision::Allow)).unwrap();
        policies
    };
    let decided = |policies: &Policies, actions| policies.decide(&topic("orders", actions), HERE).is_some();
    assert!(decided(&of(&[Action::Sub]), &[Action::Pub, Action::Sub]));
    assert!(!decided(&of(&[Action::Sub]), &[Action::Pub]));
    assert!(decided(&of(&[Action::All]), &[Action::Delete]));
}

#[test]
fn entries_hold_for_their_sources_and_the_default_policy_where_the_custom_one_says_nothing() {
    let mut policies = Policies::default();
    let mut near = entry("Topic:orders", &[Action::All], Decision::Allow);
    near.sources = vec!["10.1.0.0/16".parse().unwrap(), "192.168.0.1".parse().unwrap()];
    policies.put(PolicyKind::Custom, near).unwrap();
    policies.put(PolicyKind::Default, entry("*", &[Action::Pub], Decision::Deny)).unwrap();
    let need = topic("orders", &[Action::Pub]);
    assert_eq!(policies.decide(&need, HERE), Some(Decision::Allow));
    assert_eq!(policies.decide(&need, "10.2.0.1".parse().unwrap()), Some(Decision::Deny));
    assert_eq!(policies.decide(&topic("orders", &[Action::Sub]), "10.2.0.1".parse().unwrap()), None);
}

#[test]
fn a_pattern_is_there_once_and_limits_hold() {
    let mut policies = Policies::default();
    policies.put(PolicyKind::Custom, entry("Topic:a", &[Action::Pub], Decision::Allow)).unwrap();
    policies.put(PolicyKind::Custom, entry("Topic:a", &[Action::Sub], Decision::Deny)).unwrap();
    assert_eq!(policies.entries(PolicyKind::Custom), [entry("Topic:a", &[Action::Sub], Decision::Deny)]);
    assert!(policies.put(PolicyKind::Custom, entry("Topic:b", &[], Decision::Allow)).is_err());
    let mut scattered = entry("Topic:b", &[Action::Pub], Decision::Allow);
    scattered.sources = vec!["::1".parse().unwrap(); SOURCES_MAX + 1];
    assert!(policies.put(PolicyKind::Custom, scattered).is_err());
    for number in 1..ENTRIES_MAX {
        let entry = entry(&format!("Group:{number}"), &[Action::Sub], Decision::Allow);
        policies.put(PolicyKind::Default, entry).unwrap();
    }
    let more = entry("Group:more", &[Action::Sub], Decision::Allow);
    assert!(policies.put(PolicyKind::Custom, more.clone()).is_err());
    let read: Policies = serde_json::from_str(&serde_json::to_string(&policies).unwrap()).unwrap();
    assert!(read == policies);
    assert!(policies.remove(PolicyKind::Custom, &"Topic:a".parse().unwrap()));
    assert!(!policies.remove(PolicyKind::Custom, &"Topic:a".parse().unwrap()));
    policies.put(PolicyKind::Custom, more).unwrap();
}
