//! `martlet store copy`: everything a stopped broker keeps, in another place.

use crate::cli::StoreAction;
use crate::client::table::print_json;
use crate::duration::show_bytes;
use indicatif::{ProgressBar, ProgressStyle};
use martlet_broker::copy::{CopyError, copy};
use serde_json::json;
use std::io::IsTerminal;
use std::time::Instant;

/// Runs it.
pub fn run(action: StoreAction) -> Result<(), CopyError> {
    let StoreAction::Copy { from, to, json } = action;
    let began = Instant::now();
    let bar = match std::io::stderr().is_terminal() && !json {
        true => ProgressBar::new(0),
        false => ProgressBar::hidden(),
    };
    if let Ok(style) = ProgressStyle::with_template("copying {wide_bar} {pos}/{len} messages, {msg} {eta}") {
        bar.set_style(style);
    }
    let copied = copy(&from, &to, |progress| {
        bar.set_length(progress.missing);
        bar.set_position(progress.copied.messages);
        bar.set_message(show_bytes(progress.copied.bytes));
    });
    bar.finish_and_clear();
    let copied = copied?;
    let seconds = began.elapsed().as_secs_f64();
    if json {
        print_json(&json!({
            "from": from.to_string(),
            "to": to.to_string(),
            "messages": copied.messages,
            "bytes": copied.bytes,
            "queues": copied.queues,
            "seconds": seconds,
        }));
    } else {
        let (messages, queues, bytes) = (copied.messages, copied.queues, show_bytes(copied.bytes));
        println!("copied {messages} messages ({bytes}) of {queues} queues from {from} to {to} in {seconds:.1} s");
    }
    Ok(())
}
