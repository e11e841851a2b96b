//! The `martlet` binary: a broker, and the command line that talks to one.

// First, for its macro.
#[macro_use]
mod output;

mod admin;
mod cli;
mod client;
mod config;
mod duration;
mod log;
mod metrics;
mod run;
mod store;

use clap::{ArgMatches, FromArgMatches};
use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

/// Faster and smaller under many small allocations than the system's; docs/dependencies.md has the figures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let matches = cli::command().get_matches();
    let outcome = if matches.subcommand_name().is_some() { command(&matches) } else { broker(&matches) };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn broker(matches: &ArgMatches) -> Result<(), Box<dyn Error>> {
    let (flags, file) = cli::given_flags(matches);
    // Names and values that are not UTF-8 cannot be ours.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = config::resolve(config::Given { flags, file, environment: environment.collect() })?;
    // What libraries tell of their own work is for their authors, unless the user asks for it: later entries win. h2 warns of each
    // connection that misbehaves.
    let filter = tracing_subscriber::EnvFilter::try_new(format!(
        "fjall=warn,lsm_tree=warn,slatedb=warn,object_store=warn,h2=error,{}",
        config.log_level
    ))?;
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).init();
    Ok(run::run(&config)?)
}

fn command(matches: &ArgMatches) -> Result<(), Box<dyn Error>> {
    let action = cli::Action::from_arg_matches(matches).unwrap_or_else(|error| error.exit());
    if let cli::Action::Log(action) = action {
        return if log::run(action)? { Ok(()) } else { Err("the log is damaged".into()) };
    }
    if let cli::Action::Store(action) = action {
        return Ok(store::run(action)?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match action {
            cli::Action::Topic(action) => client::topic::run(action).await,
            cli::Action::Group(action) => client::group::run(action).await,
            cli::Action::Message(action) => client::look::run(action).await,
            cli::Action::Lite(action) => client::lite::run(action).await,
            cli::Action::DeadLetter(action) => client::dead_letter::run(action).await,
            cli::Action::Transaction(action) => client::transaction::run(action).await,
            cli::Action::Send(args) => client::send::run(args).await,
            cli::Action::Receive(args) => client::receive::run(args).await,
            // These need no connection, and were done above.
            cli::Action::Log(_) | cli::Action::Store(_) => Ok(()),
        }
    })?;
    Ok(())
}
