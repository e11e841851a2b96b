//! `martlet lite …`: looking at lite topics.

use super::group::age;
use super::table::{print, print_json, right, table};
use super::{ClientError, Connection, REQUEST_TIMEOUT, accepted, call_failed, request};
use crate::cli::LiteAction;
use crate::duration::show_time;
use martlet_grpc::proto::v1;
use serde_json::{Value, json};

/// Lite topics asked for at a time.
const PAGE: u32 = 500;

/// Runs one of them.
pub async fn run(action: LiteAction) -> Result<(), ClientError> {
    match action {
        LiteAction::List { parent, group, count, target } => {
            let what = format!("listing lite topics of {parent}");
            let mut admin = Connection::open(&target).await?.admin();
            let most = count.unwrap_or(u64::MAX);
            let (mut topics, mut after, mut total) = (Vec::new(), String::new(), 0);
            while (topics.len() as u64) < most {
                let limit = u64::from(PAGE).min(most - topics.len() as u64) as u32;
                let group = group.clone().unwrap_or_default();
                let message = v1::ListLiteTopicsRequest { topic: parent.clone(), group, after, limit };
                let answer = admin.list_lite_topics(request(message, REQUEST_TIMEOUT)).await;
                let answer = answer.map_err(call_failed(&*what))?.into_inner();
                accepted(&what, answer.status)?;
                topics.extend(answer.lite_topics);
                (after, total) = (answer.next, answer.total);
                if after.is_empty() {
                    break;
                }
            }
            if target.json {
                print_json(&topics.iter().map(to_json).collect());
                return Ok(());
            }
            if topics.is_empty() {
                println!("no lite topics of {parent} yet; the first message to one makes it");
                return Ok(());
            }
            list(&topics, group.is_some());
            match after.is_empty() {
                true => println!("all {} lite topics of {parent}", topics.len()),
                false => println!("the first {} of {total} lite topics of {parent}", topics.len()),
            }
        }
        LiteAction::Describe { parent, name, group, target } => {
            let what = format!("describing lite topic {name} of {parent}");
            let mut admin = Connection::open(&target).await?.admin();
            let message =
                v1::DescribeLiteTopicRequest { topic: parent, lite_topic: name, group: group.unwrap_or_default() };
            let answer = admin.describe_lite_topic(request(message, REQUEST_TIMEOUT)).await;
            let answer = answer.map_err(call_failed(&*what))?.into_inner();
            accepted(&what, answer.status.clone())?;
            describe(&answer, target.json);
        }
    }
    Ok(())
}

fn list(topics: &[v1::LiteTopic], with_group: bool) {
    let mut headings = vec!["name", "messages", "max offset", "newest"];
    if with_group {
        headings.extend(["committed", "ready", "unsettled", "age"]);
    }
    let mut table = table(&headings);
    right(&mut table, &[1, 2, 4, 5, 6, 7][..if with_group { 6 } else { 2 }]);
    for topic in topics {
        let mut row = vec![
            topic.name.clone(),
            topic.max_offset.saturating_sub(topic.min_offset).to_string(),
            topic.max_offset.to_string(),
            newest(topic),
        ];
        if let Some(progress) = topic.progress.as_ref().filter(|_| with_group) {
            row.extend([progress.committed_offset, progress.ready, progress.open].map(|number| number.to_string()));
            row.push(age(progress.lag_millis));
        }
        table.add_row(row);
    }
    print(&table);
}

fn describe(answer: &v1::DescribeLiteTopicResponse, as_json: bool) {
    let topic = answer.lite_topic.clone().unwrap_or_default();
    if as_json {
        let mut value = to_json(&topic);
        let subscriber = |each: &v1::LiteSubscriber| json!({ "group": each.group, "client_id": each.client_id });
        value["subscribers"] = answer.subscribers.iter().map(subscriber).collect();
        print_json(&value);
        return;
    }
    println!("lite topic   {}", topic.name);
    let messages = topic.max_offset.saturating_sub(topic.min_offset);
    println!("messages     {messages} (offsets from {}, the next one gets {})", topic.min_offset, topic.max_offset);
    println!("newest       {}", newest(&topic));
    if let Some(progress) = &topic.progress {
        println!("committed    {}", progress.committed_offset);
        println!("backlog      {} never handed out, {} handed out and not settled", progress.ready, progress.open);
        println!(
            "oldest       {} not settled, {} never handed out",
            age(progress.lag_millis),
            age(progress.queueing_millis)
        );
    }
    if answer.subscribers.is_empty() {
        println!("no client subscribes to it");
    }
    for each in &answer.subscribers {
        println!("subscriber   {} of {}", each.client_id, each.group);
    }
}

/// When its newest message was stored; subscriptions can be to lite topics that have none.
fn newest(topic: &v1::LiteTopic) -> String {
    if topic.max_offset == 0 { "-".to_owned() } else { show_time(topic.last_millis) }
}

fn to_json(topic: &v1::LiteTopic) -> Value {
    json!({
        "name": topic.name,
        "min_offset": topic.min_offset,
        "max_offset": topic.max_offset,
        "last_millis": topic.last_millis,
        "progress": topic.progress.as_ref().map(|progress| json!({
            "committed_offset": progress.committed_offset,
            "ready": progress.ready,
            "open": progress.open,
            "lag_millis": progress.lag_millis,
            "queueing_millis": progress.queueing_millis,
        })),
    })
}
