//! The broker's configuration: a table of keys ([`keys::KEYS`]), and where their values come from.
//!
//! A key has the same name everywhere: `retention_hours` in the TOML file, `MARTLET_RETENTION_HOURS` in the environment,
//! `--retention-hours` on the command line. The command line wins over the environment, that over the file, that over
//! the default. A key that does not exist is an error with the nearest one that does.

#[cfg(test)]
mod doc;
pub mod keys;
mod value;

pub use value::{Advertise, Durability, Listen};

use keys::{KEYS, Key};
use martlet_broker::Location;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Prefix of environment variables.
pub const ENV_PREFIX: &str = "MARTLET_";

/// Variables with our prefix that are not keys: the command line's own, and those that Kubernetes sets in every
/// container when a service is called `martlet`.
fn is_foreign_variable(name: &str) -> bool {
    let name = name.strip_prefix(ENV_PREFIX).unwrap_or(name);
    matches!(name, "ENDPOINT" | "ACCESS_KEY" | "SECRET_KEY" | "PORT")
        || name.starts_with("SERVICE_")
        || name.starts_with("PORT_")
}

/// Every setting of a broker, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// See [`KEYS`] for the meaning of each.
    pub data: PathBuf,
    pub store: Option<Location>,
    pub store_flush_ms: u32,
    pub store_table_mib: u32,
    pub store_cache_mib: u32,
    pub store_compactions: u32,
    pub store_garbage_minutes: u32,
    pub broker_name: String,
    pub cluster_name: String,
    pub grpc_listen: Listen,
    pub nameserver_listen: Option<Listen>,
    pub remoting_listen: Option<Listen>,
    pub http_listen: Option<Listen>,
    pub admin_listen: Listen,
    pub advertise: Advertise,
    pub grpc_advertise: Advertise,
    pub remoting_advertise: Advertise,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub accounts: Option<PathBuf>,
    pub authorization: bool,
    pub auto_create_topics: bool,
    pub auto_create_groups: bool,
    pub durability: Durability,
    pub retention_hours: u32,
    pub disk_watermark_percent: u32,
    pub segment_mib: u32,
    pub tail_cache_mib: u32,
    pub open_slots_max: u32,
    pub delay_max_hours: u32,
    pub mixed_topics: bool,
    pub transaction_immunity_seconds: u32,
    pub transaction_check_interval_seconds: u32,
    pub transaction_checks_max: u32,
    pub workers: usize,
    pub drain_seconds: u32,
    pub log_level: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: "./martlet-data".into(),
            store: None,
            store_flush_ms: 50,
            store_table_mib: 16,
            store_cache_mib: 48,
            store_compactions: 2,
            store_garbage_minutes: 5,
            broker_name: "broker-a".into(),
            cluster_name: "DefaultCluster".into(),
            grpc_listen: Listen::any(8081),
            nameserver_listen: Some(Listen::any(9876)),
            remoting_listen: Some(Listen::any(10911)),
            http_listen: Some(Listen::any(8080)),
            admin_listen: Listen::any(8082),
            advertise: Advertise::AsDialled,
            grpc_advertise: Advertise::AsDialled,
            remoting_advertise: Advertise::AsDialled,
            tls_cert: None,
            tls_key: None,
            accounts: None,
            authorization: false,
            auto_create_topics: true,
            auto_create_groups: true,
            durability: Durability::Fdatasync,
            retention_hours: 72,
            disk_watermark_percent: 85,
            segment_mib: 128,
            tail_cache_mib: 16,
            open_slots_max: 100_000,
            delay_max_hours: 960,
            mixed_topics: false,
            transaction_immunity_seconds: 6,
            transaction_check_interval_seconds: 30,
            transaction_checks_max: 15,
            workers: 0,
            drain_seconds: 10,
            log_level: "info".into(),
        }
    }
}

impl Config {
    /// What clients of the gRPC port are told to dial.
    pub fn grpc_advertised(&self) -> &Advertise {
        match &self.grpc_advertise {
            Advertise::AsDialled => &self.advertise,
            own => own,
        }
    }

    /// What TCP clients are told to dial: their own, or the host of the common one, whose port is another listener's.
    pub fn remoting_advertised(&self) -> Advertise {
        match (&self.remoting_advertise, &self.advertise) {
            (Advertise::AsDialled, Advertise::Host { host, .. }) => Advertise::Host { host: host.clone(), port: None },
            (own, _) => own.clone(),
        }
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A flag on the command line.
    Flag(String),
    /// A variable of the environment.
    Environment(String),
    /// A file.
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No such key.
    #[error("{source_name}: there is no key {key}{}; all keys: martlet --help", suggestion(nearest.as_deref()))]
    UnknownKey {
        /// Where it stands.
        source_name: Source,
        /// As it was given.
        key: String,
        /// A key whose name is close.
        nearest: Option<String>,
    },
    /// The value is not one of this key's.
    #[error("{source_name}: {key} = {value:?} is not accepted; it takes {accepts}")]
    BadValue {
        /// Where it stands.
        source_name: Source,
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What is accepted.
        accepts: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}: not TOML: {error}", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Line, column, what was expected.
        error: Box<toml::de::Error>,
    },
    /// Two keys only make sense together.
    #[error("{given} is set and {missing} is not; TLS needs both")]
    Incomplete {
        /// The one that is set.
        given: &'static str,
        /// The one that is missing.
        missing: &'static str,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!(", did you mean {nearest}?")).unwrap_or_default()
}

/// The key whose name is closest, if any is close.
fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase().replace('-', "_");
    KEYS.iter()
        .map(|key| (strsim::jaro_winkler(&name, key.name), key.name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// What was given, before it is checked.
#[derive(Debug, Default)]
pub struct Given {
    /// Key name and text, from the command line.
    pub flags: Vec<(String, String)>,
    /// The configuration file named there.
    pub file: Option<PathBuf>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
}

/// Puts the layers together.
pub fn resolve(given: Given) -> Result<Config, ConfigError> {
    let mut values: BTreeMap<&'static str, (Source, String)> = BTreeMap::new();
    let file_variable = format!("{ENV_PREFIX}CONFIG");
    let from_environment =
        given.environment.iter().find(|(name, _)| *name == file_variable).map(|(_, path)| PathBuf::from(path));
    if let Some(path) = given.file.or(from_environment) {
        read_file(&path, &mut values)?;
    }
    for (variable, value) in given.environment {
        let Some(name) = variable.strip_prefix(ENV_PREFIX) else { continue };
        if variable == file_variable || is_foreign_variable(&variable) {
            continue;
        }
        let found = KEYS.iter().find(|key| key.name.eq_ignore_ascii_case(name) && variable == key.variable());
        let Some(key) = found else {
            let nearest = nearest(name).map(|name| format!("{ENV_PREFIX}{}", name.to_uppercase()));
            return Err(ConfigError::UnknownKey {
                source_name: Source::Environment(variable.clone()),
                key: variable,
                nearest,
            });
        };
        values.insert(key.name, (Source::Environment(variable), value));
    }
    for (name, value) in given.flags {
        if let Some(key) = KEYS.iter().find(|key| key.name == name) {
            values.insert(key.name, (Source::Flag(key.flag()), value));
        }
    }
    let mut config = Config::default();
    for key in KEYS {
        if let Some((source_name, value)) = values.remove(key.name) {
            set(key, &mut config, source_name, value)?;
        }
    }
    match (&config.tls_cert, &config.tls_key) {
        (Some(_), None) => Err(ConfigError::Incomplete { given: "tls_cert", missing: "tls_key" }),
        (None, Some(_)) => Err(ConfigError::Incomplete { given: "tls_key", missing: "tls_cert" }),
        _ => Ok(config),
    }
}

fn set(key: &Key, config: &mut Config, source_name: Source, value: String) -> Result<(), ConfigError> {
    (key.set)(config, value.trim()).ok_or(ConfigError::BadValue {
        source_name,
        key: key.name,
        value,
        accepts: key.accepts,
    })
}

fn read_file(path: &Path, values: &mut BTreeMap<&'static str, (Source, String)>) -> Result<(), ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
    let table: toml::Table =
        text.parse().map_err(|error| ConfigError::NotToml { path: path.to_owned(), error: Box::new(error) })?;
    for (name, value) in table {
        let source_name = Source::File(path.to_owned());
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            return Err(ConfigError::UnknownKey { source_name, nearest: nearest(&name).map(str::to_owned), key: name });
        };
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            other => {
                let value = other.to_string();
                return Err(ConfigError::BadValue { source_name, key: key.name, value, accepts: key.accepts });
            }
        };
        values.insert(key.name, (source_name, value));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
