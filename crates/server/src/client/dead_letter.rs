//! `martlet dead-letter …`: what a group gave up, and putting it back.

use super::look::{print_lines, shortened, show};
use super::message::JsonMessage;
use super::table::{print, print_json, right, table};
use super::{ClientError, Connection, REQUEST_TIMEOUT, Service, accepted, call_failed, request};
use crate::cli::DeadLetterAction;
use crate::duration::show_time;
use indicatif::{ProgressBar, ProgressStyle};
use martlet_grpc::proto::v1::admin_client::AdminClient;
use martlet_grpc::proto::{v1, v2};
use serde_json::json;
use std::io::IsTerminal;
use std::time::Duration;

/// Dead letters asked for at a time.
const PAGE: u32 = 200;
/// Resending reads every letter and waits for the disk.
const RESEND_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs one of them.
pub async fn run(action: DeadLetterAction) -> Result<(), ClientError> {
    match action {
        DeadLetterAction::List { group, count, target } => {
            let mut admin = Connection::open(&target).await?.admin();
            let most = count.unwrap_or(u64::MAX);
            let mut messages = Vec::new();
            let mut from = None;
            while (messages.len() as u64) < most {
                let limit = u64::from(PAGE).min(most - messages.len() as u64) as u32;
                let page = page(&mut admin, &group, from.take(), limit).await?;
                messages.extend(page.messages);
                match page.next {
                    Some(next) => from = Some(next),
                    None => break,
                }
            }
            if target.json {
                return print_lines(&messages);
            }
            list(&messages);
        }
        DeadLetterAction::Show { group, id, target } => {
            let mut admin = Connection::open(&target).await?.admin();
            let messages = by_id(&mut admin, &group, &id).await?;
            if target.json {
                return print_lines(&messages);
            }
            messages.iter().for_each(show);
        }
        DeadLetterAction::Resend { group, id, all: _, target } => {
            let mut admin = Connection::open(&target).await?.admin();
            let outcome = match id {
                Some(id) => {
                    let letters = by_id(&mut admin, &group, &id).await?.iter().map(place).collect();
                    resend(&mut admin, &group, letters).await?
                }
                None => resend_all(&mut admin, &group, target.json).await?,
            };
            report(&outcome, target.json)?;
        }
    }
    Ok(())
}

/// What resending came to.
#[derive(Default)]
struct Outcome {
    resent: Vec<(v1::Place, v1::Place)>,
    refused: Vec<(v1::Place, v2::Status)>,
}

async fn page(
    admin: &mut AdminClient<Service>,
    group: &str,
    from: Option<v1::Place>,
    limit: u32,
) -> Result<v1::ListDeadLettersResponse, ClientError> {
    let what = format!("listing dead letters of {group}");
    let message = v1::ListDeadLettersRequest { group: group.to_owned(), from, limit, message_id: String::new() };
    let answer = admin.list_dead_letters(request(message, REQUEST_TIMEOUT)).await;
    let answer = answer.map_err(call_failed(&*what))?.into_inner();
    accepted(&what, answer.status.clone())?;
    Ok(answer)
}

async fn by_id(admin: &mut AdminClient<Service>, group: &str, id: &str) -> Result<Vec<v2::Message>, ClientError> {
    let what = format!("looking for dead letter {id} of {group}");
    let message =
        v1::ListDeadLettersRequest { group: group.to_owned(), message_id: id.to_owned(), ..Default::default() };
    let answer = admin.list_dead_letters(request(message, REQUEST_TIMEOUT)).await;
    let answer = answer.map_err(call_failed(&*what))?.into_inner();
    accepted(&what, answer.status)?;
    if answer.messages.is_empty() {
        return Err(ClientError::Input(format!("group {group} has no dead letter with message id {id}")));
    }
    Ok(answer.messages)
}

fn place(message: &v2::Message) -> v1::Place {
    let system = message.system_properties.clone().unwrap_or_default();
    v1::Place {
        topic: message.topic.clone().unwrap_or_default().name,
        queue: u32::try_from(system.queue_id).unwrap_or(0),
        offset: u64::try_from(system.queue_offset.unwrap_or(0)).unwrap_or(0),
    }
}

async fn resend(
    admin: &mut AdminClient<Service>,
    group: &str,
    letters: Vec<v1::Place>,
) -> Result<Outcome, ClientError> {
    let what = format!("resending dead letters of {group}");
    let message = v1::ResendDeadLettersRequest { group: group.to_owned(), letters };
    let answer = admin.resend_dead_letters(request(message, RESEND_TIMEOUT)).await;
    let answer = answer.map_err(call_failed(&*what))?.into_inner();
    accepted(&what, answer.status)?;
    let mut outcome = Outcome::default();
    for result in answer.results {
        let from = result.from.unwrap_or_default();
        match result.to {
            Some(to) => outcome.resent.push((from, to)),
            None => outcome.refused.push((from, result.status.unwrap_or_default())),
        }
    }
    Ok(outcome)
}

/// All that are there now: what becomes a dead letter again meanwhile is left alone, or this might never end.
async fn resend_all(admin: &mut AdminClient<Service>, group: &str, quiet: bool) -> Result<Outcome, ClientError> {
    let mut letters: Vec<v1::Place> = Vec::new();
    let mut from = None;
    loop {
        let page = page(admin, group, from.take(), PAGE).await?;
        letters.extend(page.messages.iter().map(place));
        match page.next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    let bar = match std::io::stderr().is_terminal() && !quiet {
        true => ProgressBar::new(letters.len() as u64),
        false => ProgressBar::hidden(),
    };
    if let Ok(style) = ProgressStyle::with_template("resending {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    let mut outcome = Outcome::default();
    for some in letters.chunks(PAGE as usize) {
        let more = resend(admin, group, some.to_vec()).await?;
        outcome.resent.extend(more.resent);
        outcome.refused.extend(more.refused);
        bar.inc(some.len() as u64);
    }
    bar.finish_and_clear();
    Ok(outcome)
}

fn report(outcome: &Outcome, as_json: bool) -> Result<(), ClientError> {
    let at = |place: &v1::Place| json!({ "topic": place.topic, "queue": place.queue, "offset": place.offset });
    if as_json {
        let resent: Vec<_> =
            outcome.resent.iter().map(|(from, to)| json!({ "from": at(from), "to": at(to) })).collect();
        let refused: Vec<_> = outcome
            .refused
            .iter()
            .map(|(from, status)| json!({ "from": at(from), "reason": status.message }))
            .collect();
        print_json(&json!({ "resent": resent, "refused": refused }));
    } else {
        for (from, status) in &outcome.refused {
            println!("{} {}:{} stays: {}", from.topic, from.queue, from.offset, status.message);
        }
        if let [(_, to)] = &outcome.resent[..] {
            println!("resent to {} at offset {} of queue {}", to.topic, to.offset, to.queue);
        } else {
            println!("resent {} dead letters", outcome.resent.len());
        }
    }
    match (&outcome.resent[..], &outcome.refused[..]) {
        ([], [_, ..]) => Err(ClientError::Input("nothing was resent".into())),
        _ => Ok(()),
    }
}

fn list(messages: &[v2::Message]) {
    if messages.is_empty() {
        println!("no dead letters");
        return;
    }
    let mut table = table(&["queue", "offset", "since", "message id", "from topic", "tag", "keys", "body"]);
    right(&mut table, &[0, 1]);
    for message in messages {
        let json = JsonMessage::of(message);
        let letter = message.system_properties.clone().unwrap_or_default().dead_letter_queue.unwrap_or_default();
        table.add_row([
            json.queue.unwrap_or_default().to_string(),
            json.offset.unwrap_or_default().to_string(),
            json.store_millis.map(show_time).unwrap_or_default(),
            json.message_id.clone().unwrap_or_default(),
            letter.topic,
            json.tag.clone().unwrap_or_default(),
            json.keys.join(" "),
            shortened(&json),
        ]);
    }
    print(&table);
}
