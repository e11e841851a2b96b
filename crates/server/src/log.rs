//! `martlet log inspect` and `martlet log repair`: the log of a stopped broker, for people and programs.

use crate::cli::LogAction;
use crate::client::message::body_of;
use crate::client::table::{print, print_json, right, table};
use crate::duration::show_bytes;
use martlet_model::record::{self, Field};
use martlet_store::inspect::{Inspection, Lost, LostMessage, inspect, repair};
use serde_json::{Value, json};
use std::error::Error;
use std::path::{Path, PathBuf};

/// Runs one of them. True if the log is sound.
pub fn run(action: LogAction) -> Result<bool, Box<dyn Error>> {
    match action {
        LogAction::Inspect { dir, json } => {
            let mut sound = true;
            let mut all = Vec::new();
            for folder in shards(&dir)? {
                let found = inspect(&folder)?;
                sound &= found.segments.iter().all(|segment| segment.damage.is_none() || segment.torn);
                if json {
                    all.push(inspection_json(&folder, &found));
                } else {
                    show(&dir, &folder, &found);
                }
            }
            if json {
                print_json(&all.into());
            }
            Ok(sound)
        }
        LogAction::Repair { dir, frame: (segment, position), json } => {
            let folders = shards(&dir)?;
            let [folder] = &folders[..] else {
                return Err(format!("{} has several logs; name one of them, such as shard-0", dir.display()).into());
            };
            let lost = repair(folder, segment, position)?;
            if json {
                print_json(&lost_json(&lost));
            } else {
                show_lost(&lost);
            }
            Ok(true)
        }
    }
}

/// The folders of the shards in a data folder; or the folder itself, if it is one of them.
fn shards(dir: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    if dir.join("format").is_file() {
        return Ok(vec![dir.to_owned()]);
    }
    let entries = std::fs::read_dir(dir).map_err(|error| format!("cannot read {}: {error}", dir.display()))?;
    let mut folders: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.join("format").is_file()).collect();
    folders.sort();
    if folders.is_empty() {
        Err(format!("{} is not a data folder of martlet", dir.display()).into())
    } else {
        Ok(folders)
    }
}

fn show(dir: &Path, folder: &Path, found: &Inspection) {
    println!("log {} in {}", found.log_id, folder.display());
    println!();
    let mut table = table(&["file", "class", "frames", "gaps", "messages", "key changes", "end", "state"]);
    right(&mut table, &[1, 2, 3, 4, 5, 6]);
    for segment in &found.segments {
        let state = match (&segment.damage, segment.torn) {
            (_, true) => "torn at the end",
            (Some(_), false) => "DAMAGED",
            (None, false) => "good",
        };
        table.add_row([
            segment.file.clone(),
            segment.class.to_string(),
            segment.frames.to_string(),
            segment.gaps.to_string(),
            segment.messages.to_string(),
            segment.key_changes.to_string(),
            segment.end.to_string(),
            state.to_owned(),
        ]);
    }
    print(&table);
    for segment in &found.segments {
        let Some(damage) = &segment.damage else { continue };
        println!();
        println!("{} at position {}", segment.file, damage.position);
        println!("  expected  {}", damage.expected);
        println!("  found     {}", damage.found);
        if segment.torn {
            println!("  A write that was never acknowledged; the next start cuts it off.");
        } else {
            println!("  To drop this frame and list what is lost:");
            println!("  martlet log repair {} --frame {}:{}", dir.display(), segment.segment, damage.position);
        }
    }
}

fn inspection_json(folder: &Path, found: &Inspection) -> Value {
    let segments = found.segments.iter().map(|segment| {
        json!({
            "segment": segment.segment,
            "file": segment.file,
            "class": segment.class,
            "frames": segment.frames,
            "gaps": segment.gaps,
            "messages": segment.messages,
            "key_changes": segment.key_changes,
            "end": segment.end,
            "torn": segment.torn,
            "damage": segment.damage.as_ref().map(|damage| {
                json!({ "position": damage.position, "expected": damage.expected, "found": damage.found })
            }),
        })
    });
    json!({ "folder": folder, "log_id": found.log_id, "segments": segments.collect::<Vec<_>>() })
}

fn show_lost(lost: &Lost) {
    println!("dropped {}; its bytes are kept in {}", show_bytes(lost.bytes), lost.kept_in);
    println!("lost: {} messages, {} changes of keys", lost.messages.len(), lost.keys.len());
    if !lost.complete {
        println!("the frame could not be read to its end: more was lost than is listed");
    }
    for message in &lost.messages {
        let state = if message.intact { "intact" } else { "damaged" };
        let (id, body) = (message_id(message), body_of(&message_body(message)));
        let body = body.0.unwrap_or_else(|| format!("base64:{}", body.1.unwrap_or_default()));
        println!("  queue {} offset {} id {} ({state})  {body}", message.queue.0, message.offset, id.unwrap_or("-"));
    }
}

fn lost_json(lost: &Lost) -> Value {
    let messages = lost.messages.iter().map(|message| {
        let (body, body_base64) = body_of(&message_body(message));
        json!({
            "queue_number": message.queue.0,
            "offset": message.offset.0,
            "intact": message.intact,
            "message_id": message_id(message),
            "body": body,
            "body_base64": body_base64,
        })
    });
    json!({
        "bytes": lost.bytes,
        "kept_in": lost.kept_in,
        "complete": lost.complete,
        "messages": messages.collect::<Vec<_>>(),
        "keys": lost.keys.len(),
    })
}

/// What is left of a body; all of the record if it cannot be told apart.
fn message_body(message: &LostMessage) -> bytes::Bytes {
    record::body(&message.record).unwrap_or_else(|_| message.record.clone())
}

fn message_id(message: &LostMessage) -> Option<&str> {
    record::find(&message.record, |field| match field {
        Field::MessageId(id) => Some(id),
        _ => None,
    })
}
