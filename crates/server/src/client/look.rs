//! `martlet message …`: looking at messages without consuming them.

use super::message::JsonMessage;
use super::table::{print, right, table};
use super::{ClientError, Connection, REQUEST_TIMEOUT, accepted, call_failed, request};
use crate::cli::{MessageAction, Target};
use crate::duration::show_time;
use martlet_grpc::proto::v1::{self, find_messages_request as find, peek_messages_request as peek};
use martlet_grpc::proto::v2;

/// Messages asked for at a time.
const PAGE: u64 = 500;
/// Characters of a body that a table shows.
const BODY_CHARS: usize = 60;

/// Runs one of them.
pub async fn run(action: MessageAction) -> Result<(), ClientError> {
    match action {
        MessageAction::Get { id, topic, target } => {
            let what = format!("looking for message {id}");
            let wanted = find::Wanted::MessageId(id.clone());
            let request = v1::FindMessagesRequest {
                topic: topic.unwrap_or_default(),
                wanted: Some(wanted),
                ..Default::default()
            };
            let messages = find_all(&what, &target, request, u64::MAX).await?;
            if messages.is_empty() {
                return Err(ClientError::Input(format!("there is no message {id}")));
            }
            if target.json {
                print_lines(&messages)?;
            } else {
                messages.iter().for_each(show);
            }
        }
        MessageAction::Find { topic, key, id, since, until, count, target } => {
            let (what, wanted) = match (key, id) {
                (Some(key), _) => (format!("looking for key {key} in {topic}"), find::Wanted::Key(key)),
                (None, id) => {
                    let id = id.unwrap_or_default();
                    (format!("looking for message {id} in {topic}"), find::Wanted::MessageId(id))
                }
            };
            let request = v1::FindMessagesRequest {
                topic,
                wanted: Some(wanted),
                since_millis: since,
                until_millis: until,
                ..Default::default()
            };
            let messages = find_all(&what, &target, request, count.unwrap_or(u64::MAX)).await?;
            list(&messages, target.json)?;
        }
        MessageAction::Peek { topic, queue, offset, since, count, target } => {
            let what = format!("looking into topic {topic}");
            let mut admin = Connection::open(&target).await?.admin();
            let mut from = match (offset, since) {
                (Some(offset), _) => Some(peek::From::Offset(offset)),
                (None, since) => since.map(peek::From::SinceMillis),
            };
            let mut messages: Vec<v2::Message> = Vec::new();
            while (messages.len() as u64) < count {
                let message = v1::PeekMessagesRequest {
                    topic: topic.clone(),
                    queue,
                    from: from.take(),
                    count: PAGE.min(count - messages.len() as u64) as u32,
                };
                let answer = admin.peek_messages(request(message, REQUEST_TIMEOUT)).await;
                let answer = answer.map_err(call_failed(&*what))?.into_inner();
                accepted(&what, answer.status)?;
                messages.extend(answer.messages);
                if answer.next.is_empty() {
                    break;
                }
                from = Some(peek::From::Places(peek::Places { places: answer.next }));
            }
            list(&messages, target.json)?;
        }
    }
    Ok(())
}

async fn find_all(
    what: &str,
    target: &Target,
    mut message: v1::FindMessagesRequest,
    most: u64,
) -> Result<Vec<v2::Message>, ClientError> {
    let mut admin = Connection::open(target).await?.admin();
    let mut messages = Vec::new();
    while (messages.len() as u64) < most {
        message.limit = PAGE.min(most - messages.len() as u64) as u32;
        let answer = admin.find_messages(request(message.clone(), REQUEST_TIMEOUT)).await;
        let answer = answer.map_err(call_failed(what))?.into_inner();
        accepted(what, answer.status)?;
        messages.extend(answer.messages);
        match answer.after {
            Some(after) => message.after = Some(after),
            None => break,
        }
    }
    Ok(messages)
}

/// One JSON object a line, as `receive --json` prints them.
pub fn print_lines(messages: &[v2::Message]) -> Result<(), ClientError> {
    for message in messages {
        let line = serde_json::to_string(&JsonMessage::of(message));
        println!("{}", line.map_err(|error| ClientError::Input(error.to_string()))?);
    }
    Ok(())
}

fn list(messages: &[v2::Message], as_json: bool) -> Result<(), ClientError> {
    if as_json {
        return print_lines(messages);
    }
    if messages.is_empty() {
        println!("no messages");
        return Ok(());
    }
    let mut table = table(&["topic", "queue", "offset", "stored", "message id", "tag", "keys", "body"]);
    right(&mut table, &[1, 2]);
    for message in messages {
        let json = JsonMessage::of(message);
        table.add_row([
            json.topic.clone().unwrap_or_default(),
            json.queue.unwrap_or_default().to_string(),
            json.offset.unwrap_or_default().to_string(),
            json.store_millis.map(show_time).unwrap_or_default(),
            json.message_id.clone().unwrap_or_default(),
            json.tag.clone().unwrap_or_default(),
            json.keys.join(" "),
            shortened(&json),
        ]);
    }
    print(&table);
    Ok(())
}

/// The beginning of a body on one line.
pub fn shortened(message: &JsonMessage) -> String {
    let (text, is_text) = match (&message.body, &message.body_base64) {
        (Some(body), _) => (body.as_str(), true),
        (None, base64) => (base64.as_deref().unwrap_or(""), false),
    };
    let mut short: String =
        text.chars().take(BODY_CHARS).map(|each| if each.is_control() { ' ' } else { each }).collect();
    if text.chars().nth(BODY_CHARS).is_some() {
        short.push('…');
    }
    if is_text { short } else { format!("base64:{short}") }
}

/// Everything about one message, for people.
pub fn show(message: &v2::Message) {
    let json = JsonMessage::of(message);
    let system = message.system_properties.clone().unwrap_or_default();
    println!("message id  {}", json.message_id.as_deref().unwrap_or("-"));
    println!("topic       {}", json.topic.as_deref().unwrap_or("-"));
    println!("place       queue {}, offset {}", json.queue.unwrap_or(-1), json.offset.unwrap_or(-1));
    println!("stored      {}", json.store_millis.map_or_else(|| "-".to_owned(), show_time));
    println!("born        {} at {}", json.born_millis.map_or_else(|| "-".to_owned(), show_time), system.born_host);
    if let Some(letter) = &system.dead_letter_queue {
        println!("dead letter of {}, message id {}", letter.topic, letter.message_id);
    }
    for (name, value) in [("tag", &json.tag), ("group", &json.message_group)] {
        if let Some(value) = value {
            println!("{name:11} {value}");
        }
    }
    if let Some(priority) = json.priority {
        println!("priority    {priority}");
    }
    if !json.keys.is_empty() {
        println!("keys        {}", json.keys.join(" "));
    }
    for (name, value) in &json.properties {
        println!("property    {name}={value}");
    }
    println!("body        {} bytes", message.body.len());
    match (&json.body, &json.body_base64) {
        (Some(body), _) => println!("{body}\n"),
        (None, base64) => println!("base64:{}\n", base64.as_deref().unwrap_or("")),
    }
}
