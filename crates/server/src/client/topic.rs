//! `martlet topic …`.

use super::table::{print, print_json, right, table};
use super::{ClientError, Connection, REQUEST_TIMEOUT, accepted, call_failed, request};
use crate::cli::{PermissionArg, TopicAction, TopicSettingsArgs, TopicTypeArg};
use crate::duration::{show_millis, show_time};
use martlet_grpc::proto::{v1, v2};
use serde_json::{Value, json};

/// Runs one of them.
pub async fn run(action: TopicAction) -> Result<(), ClientError> {
    match action {
        TopicAction::Create { name, kind, settings, target } => {
            let what = format!("creating topic {name}");
            let message = v1::CreateTopicRequest { name, settings: Some(wire(&settings, kind)) };
            let mut admin = Connection::open(&target).await?.admin();
            let answer = admin.create_topic(request(message, REQUEST_TIMEOUT)).await;
            let answer = answer.map_err(call_failed(&*what))?.into_inner();
            accepted(&what, answer.status)?;
            done("created", &answer.topic.unwrap_or_default(), target.json);
        }
        TopicAction::Update { name, settings, read_queues, target } => {
            let what = format!("updating topic {name}");
            let message = v1::UpdateTopicRequest {
                name,
                settings: Some(v1::TopicSettings { read_queues, ..wire(&settings, None) }),
            };
            let mut admin = Connection::open(&target).await?.admin();
            let answer = admin.update_topic(request(message, REQUEST_TIMEOUT)).await;
            let answer = answer.map_err(call_failed(&*what))?.into_inner();
            accepted(&what, answer.status)?;
            done("updated", &answer.topic.unwrap_or_default(), target.json);
        }
        TopicAction::Delete { name, target } => {
            let what = format!("deleting topic {name}");
            let mut admin = Connection::open(&target).await?.admin();
            let message = v1::DeleteTopicRequest { name: name.clone() };
            let answer = admin.delete_topic(request(message, REQUEST_TIMEOUT)).await;
            accepted(&what, answer.map_err(call_failed(&*what))?.into_inner().status)?;
            if target.json {
                print_json(&json!({ "deleted": name }));
            } else {
                println!("deleted topic {name}");
            }
        }
        TopicAction::List { target } => {
            let mut admin = Connection::open(&target).await?.admin();
            let answer = admin.list_topics(request(v1::ListTopicsRequest {}, REQUEST_TIMEOUT)).await;
            let answer = answer.map_err(call_failed("listing topics"))?.into_inner();
            accepted("listing topics", answer.status)?;
            if target.json {
                print_json(&answer.topics.iter().map(to_json).collect());
            } else if answer.topics.is_empty() {
                println!("no topics yet; martlet topic create NAME makes one");
            } else {
                let mut table = table(&["name", "type", "queues", "permission", "retention", "created"]);
                right(&mut table, &[2]);
                for topic in &answer.topics {
                    table.add_row([
                        topic.name.clone(),
                        kind_name(topic),
                        queues(topic),
                        permission_name(topic),
                        retention(topic),
                        created(topic.created_millis, topic.auto_created),
                    ]);
                }
                print(&table);
            }
        }
        TopicAction::Describe { name, target } => {
            let what = format!("describing topic {name}");
            let mut admin = Connection::open(&target).await?.admin();
            let answer = admin.describe_topic(request(v1::DescribeTopicRequest { name }, REQUEST_TIMEOUT)).await;
            let answer = answer.map_err(call_failed(&*what))?.into_inner();
            accepted(&what, answer.status.clone())?;
            describe(&answer, target.json);
        }
    }
    Ok(())
}

fn describe(answer: &v1::DescribeTopicResponse, as_json: bool) {
    let topic = answer.topic.clone().unwrap_or_default();
    if as_json {
        let mut value = to_json(&topic);
        value["broker"] = json!(answer.broker);
        value["delayed"] = json!(answer.delayed);
        value["half"] = json!(answer.half);
        value["given_up"] = json!(answer.given_up);
        if topic.r#type() == v1::TopicType::Lite {
            value["lite_topics"] = json!(answer.lite_topics);
        }
        value["queues"] = answer
            .queues
            .iter()
            .map(|queue| {
                json!({
                    "queue": queue.queue,
                    "min_offset": queue.min_offset,
                    "max_offset": queue.max_offset,
                    "messages": queue.max_offset.saturating_sub(queue.min_offset),
                    "last_store_millis": queue.last_store_millis,
                })
            })
            .collect();
        print_json(&value);
        return;
    }
    println!("topic       {}", topic.name);
    println!("type        {}", kind_name(&topic));
    println!("queues      {}", queues(&topic));
    println!("permission  {}", permission_name(&topic));
    println!("retention   {}", retention(&topic));
    if topic.r#type() == v1::TopicType::Lite {
        println!("lite topics {} now; {}", answer.lite_topics, lite(&topic));
    }
    if let Some(millis) = topic.deduplicate_millis {
        println!("deduplicate {}", show_millis(millis));
    }
    println!("created     {}", created(topic.created_millis, topic.auto_created));
    println!("broker      {}", answer.broker);
    if answer.delayed > 0 {
        println!("delayed     {} messages wait for their delivery timestamp", answer.delayed);
    }
    if answer.half > 0 {
        let (half, given_up) = (answer.half, answer.given_up);
        println!("half        {half} messages wait for the end of their transaction, {given_up} of them given up");
    }
    println!();
    if topic.r#type() == v1::TopicType::Lite {
        println!("its messages are in its lite topics: martlet lite list {}", topic.name);
        return;
    }
    let mut table = table(&["queue", "min offset", "max offset", "messages", "newest"]);
    right(&mut table, &[0, 1, 2, 3]);
    for queue in &answer.queues {
        table.add_row([
            queue.queue.to_string(),
            queue.min_offset.to_string(),
            queue.max_offset.to_string(),
            queue.max_offset.saturating_sub(queue.min_offset).to_string(),
            queue.last_store_millis.map_or_else(|| "-".to_owned(), show_time),
        ]);
    }
    print(&table);
}

fn lite(topic: &v1::Topic) -> String {
    let end = match topic.lite_expire_minutes {
        None => "never end".to_owned(),
        Some(minutes) => {
            let what = if topic.lite_expire_unconsumed { "with all messages" } else { "once consumed" };
            format!("end {} after their last message, {what}", show_millis(i64::from(minutes) * 60_000))
        }
    };
    match topic.lite_topics_max {
        Some(max) => format!("{end}; at most {max}"),
        None => end,
    }
}

fn wire(settings: &TopicSettingsArgs, kind: Option<TopicTypeArg>) -> v1::TopicSettings {
    v1::TopicSettings {
        r#type: kind.map(|kind| {
            i32::from(match kind {
                TopicTypeArg::Normal => v1::TopicType::Normal,
                TopicTypeArg::Fifo => v1::TopicType::Fifo,
                TopicTypeArg::Delay => v1::TopicType::Delay,
                TopicTypeArg::Transaction => v1::TopicType::Transaction,
                TopicTypeArg::Lite => v1::TopicType::Lite,
                TopicTypeArg::Priority => v1::TopicType::Priority,
                TopicTypeArg::Mixed => v1::TopicType::Mixed,
            })
        }),
        queues: settings.queues,
        permission: settings.permission.map(|permission| {
            i32::from(match permission {
                PermissionArg::ReadWrite => v2::Permission::ReadWrite,
                PermissionArg::Read => v2::Permission::Read,
                PermissionArg::Write => v2::Permission::Write,
                PermissionArg::None => v2::Permission::None,
            })
        }),
        retention_millis: settings.retention,
        lite_expire_minutes: settings.lite_expire,
        lite_expire_unconsumed: settings.lite_expire_unconsumed,
        lite_topics_max: settings.lite_topics_max,
        deduplicate_millis: settings.deduplicate,
        ..Default::default()
    }
}

fn done(verb: &str, topic: &v1::Topic, as_json: bool) {
    if as_json {
        print_json(&to_json(topic));
    } else {
        println!(
            "{verb} topic {} (type {}, {} queues, {}, retention {})",
            topic.name,
            kind_name(topic),
            queues(topic),
            permission_name(topic),
            retention(topic)
        );
    }
}

fn kind_name(topic: &v1::Topic) -> String {
    let name = v1::TopicType::try_from(topic.r#type).unwrap_or_default().as_str_name();
    name.trim_start_matches("TOPIC_TYPE_").to_lowercase()
}

fn permission_name(topic: &v1::Topic) -> String {
    let name = v2::Permission::try_from(topic.permission).unwrap_or_default().as_str_name();
    name.to_lowercase().replace('_', "-")
}

fn queues(topic: &v1::Topic) -> String {
    if topic.read_queues == topic.write_queues {
        topic.write_queues.to_string()
    } else {
        format!("{} to receive, {} to send", topic.read_queues, topic.write_queues)
    }
}

fn retention(topic: &v1::Topic) -> String {
    topic.retention_millis.map_or_else(|| "default".to_owned(), show_millis)
}

/// When, and that nobody asked for it.
pub fn created(unix_millis: i64, auto_created: bool) -> String {
    format!("{}{}", show_time(unix_millis), if auto_created { " (automatically)" } else { "" })
}

fn to_json(topic: &v1::Topic) -> Value {
    json!({
        "name": topic.name,
        "type": kind_name(topic),
        "read_queues": topic.read_queues,
        "write_queues": topic.write_queues,
        "permission": permission_name(topic),
        "retention_millis": topic.retention_millis,
        "lite_expire_minutes": topic.lite_expire_minutes,
        "lite_expire_unconsumed": topic.lite_expire_unconsumed,
        "lite_topics_max": topic.lite_topics_max,
        "deduplicate_millis": topic.deduplicate_millis,
        "created_millis": topic.created_millis,
        "auto_created": topic.auto_created,
    })
}
