//! Real input for demonstrations.

use std::path::PathBuf;

use crate::agent::Draft;
use crate::skip;

/// Commits made up where the real ones are not at hand.
const MADE_UP: usize = 5_000;

/// The commits as messages: key = commit, tag = the module with most files, body = the line. Made up, and said so, where they are not at hand.
pub fn commits() -> Option<Vec<Draft>> {
    let named = std::env::var_os("MARTLET_DATA").map(PathBuf::from);
    let folder = named.clone().unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"));
    let path = folder.join("commits.jsonl");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if named.is_some() => {
            skip("commits", &format!("{}, from MARTLET_DATA: {error}", path.display()));
            return None;
        }
        Err(_) => {
            eprintln!("DEMONSTRATIONS: MARTLET_DATA names no folder with commits.jsonl; {MADE_UP} commits are made up");
            let line = |n: usize| {
                let (module, other) = (n % 7, "x".repeat(n % 300));
                format!(r#"{{"commit":"{n:040x}","author":"{other}","modules":{{"module-{module}":2,"docs":1}}}}"#)
            };
            (0..MADE_UP).map(line).collect::<Vec<String>>().join("\n")
        }
    };
    let drafts = text.lines().map(|line| {
        let commit: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let modules = commit["modules"].as_object();
        let largest = modules.and_then(|modules| modules.iter().max_by_key(|(_, files)| files.as_u64()));
        Draft {
            keys: commit["commit"].as_str().map(str::to_owned).into_iter().collect(),
            tag: largest.map(|(module, _)| module.clone()),
            ..Draft::body(line.as_bytes())
        }
    });
    Some(drafts.collect())
}
