//! `martlet send`: bodies from the command line, or JSON lines from standard input.

use super::message::{Draft, JsonMessage};
use super::{
    ClientError, Connection, MessageIds, REQUEST_TIMEOUT, accepted, call_failed, refused, request, resource, timestamp,
    unix_millis,
};
use crate::cli::SendArgs;
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use martlet_grpc::proto::v2;
use serde_json::json;
use std::io::{BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Requests under way at once, one message each.
const IN_FLIGHT_MAX: usize = 64;
/// How often a request is tried when the broker cannot be reached or is busy. The message id stays the same.
const TRIES: u32 = 3;

/// Where one message went.
struct Sent {
    number: u64,
    message_id: String,
    offset: i64,
}

/// Runs it.
pub async fn run(args: SendArgs) -> Result<(), ClientError> {
    let from_input = match &args.bodies[..] {
        [] if args.target.json => true,
        [dash] => dash == "-",
        _ => false,
    };
    if args.bodies.is_empty() && !from_input {
        return Err(ClientError::Input("nothing to send: give a BODY, or - for JSON lines from standard input".into()));
    }
    let connection = Connection::open(&args.target).await?;
    look_up(&connection, &args.topic).await?;

    let (drafts, mut incoming) = mpsc::channel(IN_FLIGHT_MAX);
    let total = (!from_input).then(|| args.bodies.len() as u64 * args.count);
    let source = spawn_source(&args, from_input, drafts);
    let bar = progress_bar(total);
    let started = Instant::now();
    let ids = MessageIds::new();
    let mut under_way: JoinSet<Result<Sent, ClientError>> = JoinSet::new();
    let mut outcome = Outcome { sent: 0, last: None, json: args.target.json };
    let mut number = 0;
    // Messages of one message group or lite topic keep their order only if each waits for the one before it.
    let at_once = if args.message_group.is_some() || args.lite_topic.is_some() { 1 } else { IN_FLIGHT_MAX };
    loop {
        while under_way.len() >= at_once {
            outcome.take(under_way.join_next().await, &bar)?;
        }
        tokio::select! {
            biased;
            draft = incoming.recv() => {
                let Some(draft) = draft else { break };
                number += 1;
                // Lines with one of them are sent alone too.
                if draft.message_group.is_some() || draft.lite_topic.is_some() {
                    while !under_way.is_empty() {
                        outcome.take(under_way.join_next().await, &bar)?;
                    }
                }
                let message = to_wire(&args.topic, draft, ids.next());
                under_way.spawn(send_one(connection.clone(), message, number));
            }
            joined = under_way.join_next(), if !under_way.is_empty() => outcome.take(joined, &bar)?,
        }
    }
    while !under_way.is_empty() {
        outcome.take(under_way.join_next().await, &bar)?;
    }
    bar.finish_and_clear();
    source.join().map_err(|_| ClientError::Input("reading the messages failed".into()))??;
    outcome.summary(&args.topic, started.elapsed());
    Ok(())
}

struct Outcome {
    sent: u64,
    last: Option<Sent>,
    json: bool,
}

impl Outcome {
    fn take(
        &mut self,
        joined: Option<Result<Result<Sent, ClientError>, tokio::task::JoinError>>,
        bar: &ProgressBar,
    ) -> Result<(), ClientError> {
        let sent = match joined {
            Some(Ok(Ok(sent))) => sent,
            Some(Ok(Err(error))) => {
                bar.finish_and_clear();
                if self.sent > 0 {
                    eprintln!("{} messages were sent before this failed", self.sent);
                }
                return Err(error);
            }
            Some(Err(error)) => return Err(ClientError::Input(error.to_string())),
            None => return Ok(()),
        };
        self.sent += 1;
        bar.inc(1);
        if self.json {
            let line = json!({ "number": sent.number, "message_id": sent.message_id, "offset": sent.offset });
            bar.suspend(|| writeln!(std::io::stdout(), "{line}"))?;
        }
        self.last = Some(sent);
        Ok(())
    }

    fn summary(&self, topic: &str, elapsed: Duration) {
        if self.json {
            return;
        }
        match &self.last {
            Some(sent) if self.sent == 1 => {
                println!("sent to {topic} at offset {}, message id {}", sent.offset, sent.message_id);
            }
            _ => {
                let rate = self.sent as f64 / elapsed.as_secs_f64().max(0.001);
                println!(
                    "sent {} messages to {topic} in {:.2} s ({rate:.0} a second)",
                    self.sent,
                    elapsed.as_secs_f64()
                );
            }
        }
    }
}

/// Asks for the route as every client does first: it says whether the topic is there, and lets the broker create it.
async fn look_up(connection: &Connection, topic: &str) -> Result<(), ClientError> {
    let what = format!("looking up topic {topic}");
    let message = v2::QueryRouteRequest { topic: Some(resource(topic)), endpoints: Some(connection.endpoints()) };
    let answer = connection.messaging().query_route(request(message, REQUEST_TIMEOUT)).await;
    accepted(&what, answer.map_err(call_failed(&*what))?.into_inner().status)
}

/// Reads on a thread of its own, because standard input blocks.
fn spawn_source(
    args: &SendArgs,
    from_input: bool,
    drafts: mpsc::Sender<Draft>,
) -> std::thread::JoinHandle<Result<(), ClientError>> {
    let common = Draft {
        tag: args.tag.clone(),
        keys: args.keys.clone(),
        properties: args.properties.iter().cloned().collect(),
        message_group: args.message_group.clone(),
        lite_topic: args.lite_topic.clone(),
        priority: args.priority,
        ..Draft::default()
    };
    let (bodies, count) = (args.bodies.clone(), args.count);
    std::thread::spawn(move || {
        if from_input {
            return read_lines(std::io::stdin().lock(), &common, count, &drafts);
        }
        for body in bodies {
            let draft = Draft { body: Bytes::from(body), ..common.clone() };
            for _ in 0..count {
                if drafts.blocking_send(draft.clone()).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    })
}

fn read_lines(
    input: impl BufRead,
    common: &Draft,
    count: u64,
    drafts: &mpsc::Sender<Draft>,
) -> Result<(), ClientError> {
    for (number, line) in input.lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let mut draft = JsonMessage::parse(&line)
            .map_err(|error| ClientError::Input(format!("standard input, line {}: {error}", number + 1)))?;
        draft.tag = draft.tag.or_else(|| common.tag.clone());
        draft.message_group = draft.message_group.or_else(|| common.message_group.clone());
        draft.lite_topic = draft.lite_topic.or_else(|| common.lite_topic.clone());
        draft.priority = draft.priority.or(common.priority);
        draft.keys.extend(common.keys.iter().cloned());
        for (key, value) in &common.properties {
            draft.properties.entry(key.clone()).or_insert_with(|| value.clone());
        }
        for _ in 0..count {
            if drafts.blocking_send(draft.clone()).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn to_wire(topic: &str, draft: Draft, message_id: String) -> v2::Message {
    let message_type = match (&draft.lite_topic, &draft.message_group, draft.priority) {
        (Some(_), ..) => v2::MessageType::Lite,
        (None, Some(_), _) => v2::MessageType::Fifo,
        (None, None, Some(_)) => v2::MessageType::Priority,
        (None, None, None) => v2::MessageType::Normal,
    };
    let encoding = if draft.compressed { v2::Encoding::Gzip } else { v2::Encoding::Identity };
    v2::Message {
        topic: Some(resource(topic)),
        user_properties: draft.properties,
        system_properties: Some(v2::SystemProperties {
            tag: draft.tag,
            keys: draft.keys,
            message_id,
            body_encoding: encoding.into(),
            message_type: message_type.into(),
            born_timestamp: Some(timestamp(unix_millis())),
            born_host: std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".to_owned()),
            message_group: draft.message_group,
            lite_topic: draft.lite_topic,
            priority: draft.priority,
            ..Default::default()
        }),
        body: draft.body,
    }
}

async fn send_one(connection: Connection, message: v2::Message, number: u64) -> Result<Sent, ClientError> {
    let what = format!("sending message {number}");
    let message_id = message.system_properties.as_ref().map(|system| system.message_id.clone()).unwrap_or_default();
    let mut tries = 1;
    loop {
        let body = v2::SendMessageRequest { messages: vec![message.clone()] };
        let failure = match connection.messaging().send_message(request(body, REQUEST_TIMEOUT)).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let entry = answer.entries.into_iter().next();
                let status =
                    entry.as_ref().and_then(|entry| entry.status.clone()).or(answer.status).unwrap_or_default();
                match entry {
                    Some(entry) if status.code == v2::Code::Ok as i32 => {
                        let message_id = if entry.message_id.is_empty() { message_id } else { entry.message_id };
                        return Ok(Sent { number, message_id, offset: entry.offset });
                    }
                    _ if status.code == v2::Code::TooManyRequests as i32 => refused(&what, &status),
                    _ => return Err(refused(&what, &status)),
                }
            }
            Err(status) if status.code() == tonic::Code::Unavailable => call_failed(&*what)(status),
            Err(status) => return Err(call_failed(&*what)(status)),
        };
        if tries == TRIES {
            return Err(failure);
        }
        tokio::time::sleep(Duration::from_millis(100 << tries)).await;
        tries += 1;
    }
}

/// Drawn on standard error, on a terminal only.
fn progress_bar(total: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() || total.is_some_and(|total| total < 100) {
        return ProgressBar::hidden();
    }
    let template = match total {
        Some(_) => "{bar:40} {pos}/{len} messages, {per_sec}, {eta} left",
        None => "{spinner} {pos} messages, {per_sec}",
    };
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drafts(lines: &str, common: &Draft, count: u64) -> Result<Vec<Draft>, ClientError> {
        let (sender, mut receiver) = mpsc::channel(64);
        let result = read_lines(lines.as_bytes(), common, count, &sender);
        drop(sender);
        let mut drafts = Vec::new();
        while let Ok(draft) = receiver.try_recv() {
            drafts.push(draft);
        }
        result.map(|()| drafts)
    }

    #[test]
    fn lines_win_over_flags_and_add_to_keys() {
        let common = Draft { tag: Some("flag".into()), keys: vec!["k".into()], ..Draft::default() };
        let lines = "{\"body\":\"a\",\"tag\":\"line\",\"keys\":[\"own\"]}\n\n{\"body\":\"b\"}\n";
        let drafts = drafts(lines, &common, 2).unwrap();
        assert_eq!(drafts.len(), 4);
        assert_eq!((drafts[0].tag.as_deref(), drafts[0].keys.join("+")), (Some("line"), "own+k".to_owned()));
        assert_eq!(drafts[2].tag.as_deref(), Some("flag"));
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let error = drafts("{\"body\":\"a\"}\nnot json\n", &Draft::default(), 1).unwrap_err();
        assert!(error.to_string().starts_with("standard input, line 2: "), "{error}");
    }
}
