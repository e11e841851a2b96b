//! Real input for demonstrations.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::agent::Draft;
use crate::skip;

/// Commits made up where the real ones are not at hand.
const MADE_UP: usize = 5_000;

/// One commit.
pub struct Commit {
    /// Who made it.
    pub author: String,
    /// Its name.
    pub id: String,
    /// The module with most of its files.
    pub module: Option<String>,
    /// The whole line.
    pub line: String,
}

impl Commit {
    fn of(line: &str) -> Self {
        let commit: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let text = |field: &str| commit[field].as_str().unwrap_or_default().to_owned();
        let modules = commit["modules"].as_object();
        let largest = modules.and_then(|modules| modules.iter().max_by_key(|(_, files)| files.as_u64()));
        Self {
            author: text("author"),
            id: text("commit"),
            module: largest.map(|(module, _)| module.clone()),
            line: line.to_owned(),
        }
    }

    /// As a message: key = commit, tag = module, body = the line.
    pub fn draft(&self) -> Draft {
        Draft { keys: BTreeSet::from([self.id.clone()]), tag: self.module.clone(), ..Draft::body(self.line.as_bytes()) }
    }
}

/// The commits, in the order of the file. Made up, and said so, where they are not at hand.
pub fn commits() -> Option<Vec<Commit>> {
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
                let (author, module, subject) = (n * n % 97, n % 7, "x".repeat(n % 300));
                let modules = format!(r#"{{"module-{module}":2,"docs":1}}"#);
                format!(
                    r#"{{"commit":"{n:040x}","author":"author {author}","subject":"{subject}","modules":{modules}}}"#
                )
            };
            (0..MADE_UP).map(line).collect::<Vec<String>>().join("\n")
        }
    };
    Some(text.lines().map(Commit::of).collect())
}
