//! Logs on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::{
    args::LogFormat,
    failure::{Exit, Failure},
};

/// Consensus tells much that means something to its authors alone; what operators need of it we say ourselves.
const DEFAULT_FILTER: &str = "info,openraft=error";

/// Writes logs from here on; `MESH_LOG` filters them, as `info,mesh_gossip=debug`.
pub(super) fn init(format: LogFormat) -> Result<(), Failure> {
    let filter = match std::env::var("MESH_LOG") {
        Ok(text) => EnvFilter::try_new(&text).map_err(|error| {
            Failure::from_error(Exit::Usage, &error)
                .while_doing(format!("MESH_LOG ({text:?}) is not a log filter"))
                .next("set it to a level, or to something like info,mesh_gossip=debug")
        })?,
        Err(_) => EnvFilter::new(DEFAULT_FILTER),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let result = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => {
            let colour =
                io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            builder.with_ansi(colour).try_init()
        }
    };
    result.map_err(|error| Failure::from_error(Exit::Failed, &*error))
}
