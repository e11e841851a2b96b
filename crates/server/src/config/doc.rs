//! `docs/configuration.md`, from the table of keys.

use super::keys::KEYS;
use std::fmt::Write;

/// The text of `docs/configuration.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         Martlet runs without any. A key has the same name everywhere:\n\n\
         | where | looks like |\n| --- | --- |\n\
         | command line | `--retention-hours 24` |\n\
         | environment | `MARTLET_RETENTION_HOURS=24` |\n\
         | file, named by `--config FILE` or `MARTLET_CONFIG` (TOML, no sections) | `retention_hours = 24` |\n\n\
         The command line wins over the environment, the environment over the file, the file over the default. A key \
         that does not exist is an error that names the nearest one, and so is a value that a key does not take. \
         Variables that Kubernetes sets for a service called `martlet` (`MARTLET_SERVICE_…`, `MARTLET_PORT…`) are not \
         taken for keys.\n\n\
         This page is made from the table in `crates/server/src/config/keys.rs`; a test compares the two.\n",
    );
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            let _ = write!(text, "\n## {section}\n");
        }
        let default = if key.default.is_empty() { "unset".to_owned() } else { format!("`{}`", key.default) };
        let _ = write!(
            text,
            "\n### `{}`\n\n{} {}\n\nTakes {}. Default: {default}.",
            key.name, key.meaning, key.cost, key.accepts
        );
        if key.reference.is_empty() {
            text.push('\n');
        } else {
            let _ = writeln!(text, " In the reference broker: `{}`.", key.reference);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_configuration_page_is_current() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        let expected = super::markdown();
        if std::env::var_os("MARTLET_WRITE_DOCS").is_some() {
            std::fs::write(&path, &expected).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == expected,
            "docs/configuration.md is not what the table of keys says; write it anew with \
             MARTLET_WRITE_DOCS=1 cargo test -p martlet configuration_page"
        );
    }
}
