//! `martlet group …`.

use super::table::{print, print_json, right, table};
use super::topic::created;
use super::{ClientError, Connection, REQUEST_TIMEOUT, accepted, call_failed, request};
use crate::cli::{BackoffArg, GroupAction, GroupSettingsArgs, OrderArg, PatternArg, PlaceArg};
use crate::duration::{show_millis, show_time};
use martlet_grpc::proto::{v1, v2};
use serde_json::{Value, json};
use v1::backoff::Strategy;
use v1::dead_letter_policy::Policy;
use v1::start_from::Place;

/// Runs one of them.
pub async fn run(action: GroupAction) -> Result<(), ClientError> {
    match action {
        GroupAction::Create { name, order, pattern, settings, target } => {
            let what = format!("creating consumer group {name}");
            let message = v1::CreateGroupRequest { name, settings: Some(wire(&settings, order, pattern)) };
            let mut admin = Connection::open(&target).await?.admin();
            let answer = admin.create_group(request(message, REQUEST_TIMEOUT)).await;
            let answer = answer.map_err(call_failed(&*what))?.into_inner();
            accepted(&what, answer.status)?;
            done("created", &answer.group.unwrap_or_default(), target.json);
        }
        GroupAction::Update { name, settings, target } => {
            let what = format!("updating consumer group {name}");
            let message = v1::UpdateGroupRequest { name, settings: Some(wire(&settings, None, None)) };
            let mut admin = Connection::open(&target).await?.admin();
            let answer = admin.update_group(request(message, REQUEST_TIMEOUT)).await;
            let answer = answer.map_err(call_failed(&*what))?.into_inner();
            accepted(&what, answer.status)?;
            done("updated", &answer.group.unwrap_or_default(), target.json);
        }
        GroupAction::Delete { name, target } => {
            let what = format!("deleting consumer group {name}");
            let mut admin = Connection::open(&target).await?.admin();
            let message = v1::DeleteGroupRequest { name: name.clone() };
            let answer = admin.delete_group(request(message, REQUEST_TIMEOUT)).await;
            accepted(&what, answer.map_err(call_failed(&*what))?.into_inner().status)?;
            if target.json {
                print_json(&json!({ "deleted": name }));
            } else {
                println!("deleted consumer group {name}");
            }
        }
        GroupAction::ResetOffset { group, topic, to, queue, lite_topic, target } => {
            use v1::reset_offset_request::{Earliest, Latest, To};
            let what = format!("resetting consumer group {group} on topic {topic}");
            let to = match to {
                PlaceArg::Earliest => To::Earliest(Earliest {}),
                PlaceArg::Latest => To::Latest(Latest {}),
                PlaceArg::Offset(offset) => To::Offset(offset),
                PlaceArg::Time(millis) => To::TimeMillis(millis),
            };
            let mut admin = Connection::open(&target).await?.admin();
            let lite_topic = lite_topic.unwrap_or_default();
            let all_lite = lite_topic.is_empty();
            let mut message = v1::ResetOffsetRequest { group, topic, queue, to: Some(to), lite_topic, after: None };
            let mut lite_topics = Vec::new();
            loop {
                let answer = admin.reset_offset(request(message.clone(), REQUEST_TIMEOUT)).await;
                let answer = answer.map_err(call_failed(&*what))?.into_inner();
                accepted(&what, answer.status)?;
                lite_topics.extend(answer.lite_topics);
                message.after = answer.next;
                if message.after.is_some() {
                    continue;
                }
                match answer.queues.is_empty() {
                    true => show_lite_reset(&lite_topics, all_lite, target.json),
                    false => show_reset(&answer.queues, target.json),
                }
                break;
            }
        }
        GroupAction::List { target } => {
            let mut admin = Connection::open(&target).await?.admin();
            let answer = admin.list_groups(request(v1::ListGroupsRequest {}, REQUEST_TIMEOUT)).await;
            let answer = answer.map_err(call_failed("listing consumer groups"))?.into_inner();
            accepted("listing consumer groups", answer.status)?;
            if target.json {
                print_json(&answer.groups.iter().map(to_json).collect());
            } else if answer.groups.is_empty() {
                println!("no consumer groups yet; martlet group create NAME makes one");
            } else {
                let mut table = table(&["name", "order", "attempts", "back-off", "dead letters", "created"]);
                right(&mut table, &[2]);
                for group in &answer.groups {
                    table.add_row([
                        group.name.clone(),
                        order_name(group),
                        max_attempts(group).to_string(),
                        shortened(&backoff(group)),
                        dead_letters(group),
                        created(group.created_millis, group.auto_created),
                    ]);
                }
                print(&table);
            }
        }
        GroupAction::Describe { name, target } => {
            let what = format!("describing consumer group {name}");
            let mut admin = Connection::open(&target).await?.admin();
            let answer = admin.describe_group(request(v1::DescribeGroupRequest { name }, REQUEST_TIMEOUT)).await;
            let answer = answer.map_err(call_failed(&*what))?.into_inner();
            accepted(&what, answer.status.clone())?;
            describe(&answer, target.json);
        }
    }
    Ok(())
}

fn show_reset(queues: &[v1::ResetQueue], as_json: bool) {
    if as_json {
        let queues = queues.iter().map(
            |queue| json!({ "queue": queue.queue, "from_offset": queue.from_offset, "to_offset": queue.to_offset }),
        );
        return print_json(&queues.collect());
    }
    let mut table = table(&["queue", "was at", "is at"]);
    right(&mut table, &[0, 1, 2]);
    for queue in queues {
        table.add_row([u64::from(queue.queue), queue.from_offset, queue.to_offset].map(|number| number.to_string()));
    }
    print(&table);
}

fn show_lite_reset(topics: &[v1::ResetLiteTopic], all: bool, as_json: bool) {
    if as_json {
        let topics = topics.iter().map(
            |topic| json!({ "lite_topic": topic.name, "from_offset": topic.from_offset, "to_offset": topic.to_offset }),
        );
        return print_json(&topics.collect());
    }
    if all {
        return match topics.len() {
            1 => println!("moved in 1 lite topic"),
            count => println!("moved in {count} lite topics"),
        };
    }
    let mut table = table(&["lite topic", "was at", "is at"]);
    right(&mut table, &[1, 2]);
    for topic in topics {
        table.add_row([topic.name.clone(), topic.from_offset.to_string(), topic.to_offset.to_string()]);
    }
    print(&table);
}

fn backlog(progress: &v1::Progress) -> u64 {
    progress.ready + progress.in_flight + progress.waiting_retry
}

fn describe(answer: &v1::DescribeGroupResponse, as_json: bool) {
    let group = answer.group.clone().unwrap_or_default();
    let total: u64 = answer.progress.iter().map(backlog).sum();
    if as_json {
        let mut value = to_json(&group);
        value["backlog"] = json!(total);
        value["dead_letters_count"] = json!(answer.dead_letters);
        value["progress"] = answer
            .progress
            .iter()
            .map(|progress| {
                json!({
                    "topic": progress.topic,
                    "queue": progress.queue,
                    "committed_offset": progress.committed_offset,
                    "max_offset": progress.max_offset,
                    "ready": progress.ready,
                    "in_flight": progress.in_flight,
                    "waiting_retry": progress.waiting_retry,
                    "backlog": backlog(progress),
                    "lag_millis": progress.lag_millis,
                    "queueing_millis": progress.queueing_millis,
                })
            })
            .collect();
        value["clients"] = answer
            .clients
            .iter()
            .map(|client| {
                json!({
                    "client_id": client.client_id,
                    "language": client.language,
                    "version": client.version,
                    "remote_address": client.remote_address,
                    "kind": kind(client),
                    "subscriptions": client.subscriptions.iter().map(|subscription| {
                        json!({ "topic": subscription.topic, "expression": subscription.expression })
                    }).collect::<Vec<_>>(),
                })
            })
            .collect();
        value["subscriptions"] = answer
            .subscriptions
            .iter()
            .map(|subscription| {
                let (kind, expression) = expression(subscription);
                json!({
                    "topic": subscription.topic,
                    "type": kind,
                    "expression": expression,
                    "seen_millis": subscription.seen_millis,
                })
            })
            .collect();
        value["disagreement"] = json!((!answer.disagreement.is_empty()).then_some(&answer.disagreement));
        print_json(&value);
        return;
    }
    println!("group         {}", group.name);
    println!("order         {}", order_name(&group));
    if let Some(lite) = &group.lite {
        let exclusive = if lite.exclusive { ", each one client's at a time" } else { "" };
        match lite.wildcard {
            true => println!("lite topics   all of {}", lite.parent),
            false => {
                println!("lite topics   of {}{exclusive}; at most {} per client", lite.parent, lite.subscriptions_max)
            }
        }
        let resets = [(lite.reset_exclusive, "is taken over"), (lite.reset_unsubscribe, "is unsubscribed from")];
        let resets: Vec<&str> = resets.into_iter().filter_map(|(does, when)| does.then_some(when)).collect();
        if !resets.is_empty() {
            println!("              begun again when one {}", resets.join(" or "));
        }
    }
    println!("attempts      {}", max_attempts(&group));
    println!("back-off      {}", backoff(&group));
    println!("dead letters  {} ({} there now)", dead_letters(&group), answer.dead_letters);
    println!("begins        {}", start(&group));
    println!("created       {}", created(group.created_millis, group.auto_created));
    println!("backlog       {total}");
    for subscription in &answer.subscriptions {
        let (kind, expression) = expression(subscription);
        println!("wants         {} of {} ({kind})", expression, subscription.topic);
    }
    if !answer.disagreement.is_empty() {
        println!("WARNING       {}", answer.disagreement);
    }
    println!();
    if answer.progress.is_empty() {
        println!("no progress yet: no consumer of this group has received anything");
    } else {
        let headings = [
            "topic",
            "queue",
            "committed",
            "max offset",
            "ready",
            "in flight",
            "retry",
            "backlog",
            "age",
            "oldest ready",
        ];
        let mut table = table(&headings);
        right(&mut table, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        for progress in &answer.progress {
            // All lite topics together have no queue, and no place in it.
            let is_lite = group.lite.as_ref().is_some_and(|lite| lite.parent == progress.topic);
            let of_queue = |text: String| if is_lite { "-".to_owned() } else { text };
            table.add_row([
                progress.topic.clone(),
                of_queue(progress.queue.to_string()),
                of_queue(progress.committed_offset.to_string()),
                of_queue(progress.max_offset.to_string()),
                progress.ready.to_string(),
                progress.in_flight.to_string(),
                progress.waiting_retry.to_string(),
                backlog(progress).to_string(),
                age(progress.lag_millis),
                age(progress.queueing_millis),
            ]);
        }
        print(&table);
    }
    println!();
    if answer.clients.is_empty() {
        println!("no consumer is connected");
        return;
    }
    let mut table = table(&["client", "kind", "language", "address", "subscriptions"]);
    for client in &answer.clients {
        let subscriptions: Vec<String> =
            client.subscriptions.iter().map(|each| format!("{} ({})", each.topic, each.expression)).collect();
        table.add_row([
            client.client_id.clone(),
            kind(client).to_owned(),
            format!("{} {}", client.language, client.version),
            client.remote_address.clone(),
            subscriptions.join(", "),
        ]);
    }
    print(&table);
}

/// How a client gets its messages.
fn kind(client: &v1::Client) -> &'static str {
    match (client.queue_based, client.broadcasting, client.push) {
        (_, true, _) => "broadcasting",
        (true, ..) => "queue-based",
        (.., true) => "push",
        _ => "simple",
    }
}

/// Language and text of what a subscription wants.
fn expression(subscription: &v1::Subscription) -> (&'static str, &str) {
    let expression = subscription.expression.as_ref();
    let is_sql = expression.is_some_and(|expression| expression.r#type == v2::FilterType::Sql as i32);
    (if is_sql { "sql" } else { "tags" }, expression.map_or("", |expression| expression.expression.as_str()))
}

/// How old, to the second; nothing where there is nothing.
pub(super) fn age(millis: i64) -> String {
    match millis {
        0 => "-".to_owned(),
        1..1_000 => "<1s".to_owned(),
        _ => show_millis(millis / 1_000 * 1_000),
    }
}

fn wire(settings: &GroupSettingsArgs, order: Option<OrderArg>, pattern: Option<PatternArg>) -> v1::GroupSettings {
    let backoff = settings.backoff.as_ref().map(|backoff| {
        let strategy = match backoff {
            BackoffArg::Customized(waits) => Strategy::Customized(v1::CustomizedBackoff { next_millis: waits.clone() }),
            BackoffArg::Exponential(initial_millis, max_millis, multiplier) => {
                Strategy::Exponential(v1::ExponentialBackoff {
                    initial_millis: *initial_millis,
                    max_millis: *max_millis,
                    multiplier: *multiplier,
                })
            }
        };
        v1::Backoff { strategy: Some(strategy) }
    });
    let retry = (settings.max_attempts.is_some() || backoff.is_some())
        .then(|| v1::RetryPolicy { max_attempts: settings.max_attempts.unwrap_or(0), backoff });
    let dead_letters = settings.dead_letters.as_ref().map(|text| {
        let policy = match &**text {
            "group" => Policy::GroupTopic(v1::dead_letter_policy::GroupTopic {}),
            "discard" => Policy::Discard(v1::dead_letter_policy::Discard {}),
            topic => Policy::Topic(topic.to_owned()),
        };
        v1::DeadLetterPolicy { policy: Some(policy) }
    });
    let place = settings.from.and_then(|from| match from {
        PlaceArg::Earliest => Some(Place::Earliest(v1::start_from::Earliest {})),
        PlaceArg::Latest => Some(Place::Latest(v1::start_from::Latest::default())),
        PlaceArg::Time(millis) => Some(Place::TimeMillis(millis)),
        // Refused before.
        PlaceArg::Offset(_) => None,
    });
    v1::GroupSettings {
        order: order.map(|order| {
            i32::from(match order {
                OrderArg::Concurrent => v1::DeliveryOrder::Concurrent,
                OrderArg::Fifo => v1::DeliveryOrder::Fifo,
            })
        }),
        pattern: pattern.map(|pattern| {
            i32::from(match pattern {
                PatternArg::Clustering => v1::ConsumptionPattern::Clustering,
                PatternArg::LiteSelective => v1::ConsumptionPattern::LiteSelective,
            })
        }),
        retry,
        dead_letters,
        lite_parent: settings.lite_parent.clone(),
        lite_exclusive: settings.lite_exclusive,
        lite_wildcard: settings.lite_wildcard,
        lite_subscriptions_max: settings.lite_subscriptions,
        lite_reset_exclusive: settings.lite_reset_exclusive,
        lite_reset_unsubscribe: settings.lite_reset_unsubscribe,
        start: place.map(|place| v1::StartFrom { place: Some(place) }),
    }
}

fn done(verb: &str, group: &v1::Group, as_json: bool) {
    if as_json {
        print_json(&to_json(group));
    } else {
        println!(
            "{verb} consumer group {} (order {}, {} attempts, back-off {}, dead letters: {})",
            group.name,
            order_name(group),
            max_attempts(group),
            shortened(&backoff(group)),
            dead_letters(group)
        );
    }
}

fn order_name(group: &v1::Group) -> String {
    let name = v1::DeliveryOrder::try_from(group.order).unwrap_or_default().as_str_name();
    name.trim_start_matches("DELIVERY_ORDER_").to_lowercase()
}

fn pattern_name(group: &v1::Group) -> String {
    let name = v1::ConsumptionPattern::try_from(group.pattern).unwrap_or_default().as_str_name();
    name.trim_start_matches("CONSUMPTION_PATTERN_").to_lowercase().replace('_', "-")
}

fn max_attempts(group: &v1::Group) -> u32 {
    group.retry.as_ref().map_or(0, |retry| retry.max_attempts)
}

/// In the form that `--backoff` takes.
fn backoff(group: &v1::Group) -> String {
    match group.retry.as_ref().and_then(|retry| retry.backoff.as_ref()?.strategy.as_ref()) {
        Some(Strategy::Customized(waits)) => {
            waits.next_millis.iter().map(|millis| show_millis(*millis)).collect::<Vec<_>>().join(",")
        }
        Some(Strategy::Exponential(rule)) => format!(
            "exponential:{},{},{}",
            show_millis(rule.initial_millis),
            show_millis(rule.max_millis),
            rule.multiplier
        ),
        None => "-".to_owned(),
    }
}

/// At most four waits, for tables.
fn shortened(waits: &str) -> String {
    match waits.match_indices(',').nth(3) {
        Some((place, _)) if !waits.starts_with("exponential") => format!("{},…", &waits[..place]),
        _ => waits.to_owned(),
    }
}

/// In the form that `--dead-letters` takes.
fn dead_letters(group: &v1::Group) -> String {
    match group.dead_letters.as_ref().and_then(|policy| policy.policy.as_ref()) {
        Some(Policy::Topic(topic)) => topic.clone(),
        Some(Policy::Discard(_)) => "discard".to_owned(),
        Some(Policy::GroupTopic(_)) | None => "group".to_owned(),
    }
}

/// Where it begins.
fn start(group: &v1::Group) -> String {
    match group.start.as_ref().and_then(|start| start.place.as_ref()) {
        Some(Place::Latest(latest)) => format!("latest (of {})", show_time(latest.since_millis)),
        Some(Place::TimeMillis(millis)) => show_time(*millis),
        Some(Place::Earliest(_)) | None => "earliest".to_owned(),
    }
}

fn start_name(group: &v1::Group) -> &'static str {
    match group.start.as_ref().and_then(|start| start.place.as_ref()) {
        Some(Place::Latest(_)) => "latest",
        Some(Place::TimeMillis(_)) => "time",
        Some(Place::Earliest(_)) | None => "earliest",
    }
}

/// The time it begins at; absent: at the first message there is.
fn start_millis(group: &v1::Group) -> Option<i64> {
    match group.start.as_ref()?.place.as_ref()? {
        Place::Latest(latest) => Some(latest.since_millis),
        Place::TimeMillis(millis) => Some(*millis),
        Place::Earliest(_) => None,
    }
}

fn to_json(group: &v1::Group) -> Value {
    json!({
        "name": group.name,
        "order": order_name(group),
        "pattern": pattern_name(group),
        "max_attempts": max_attempts(group),
        "backoff": backoff(group),
        "dead_letters": dead_letters(group),
        "lite": group.lite.as_ref().map(|lite| json!({
            "parent": lite.parent,
            "exclusive": lite.exclusive,
            "wildcard": lite.wildcard,
            "subscriptions_max": lite.subscriptions_max,
            "reset_exclusive": lite.reset_exclusive,
            "reset_unsubscribe": lite.reset_unsubscribe,
        })),
        "from": start_name(group),
        "from_millis": start_millis(group),
        "created_millis": group.created_millis,
        "auto_created": group.auto_created,
    })
}
