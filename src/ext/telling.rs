//! `litestream_serve(addr, '{"metrics_only": true}')`: an address that tells of the process and serves no database.

use std::sync::Arc;

use super::options::Options;
use super::registry::{Doing, Registry, Running, Teller, path_of};
use super::serve::server_at;
use crate::base::{Error, Result};
use crate::net::Server;
use crate::sqlite::{Host, Output};

/// Opens the address. Returns its URL. The database of the calling connection, if it has one, is who ends it.
pub fn open(host: Host, registry: &Registry, address: &str, mut options: Options) -> Result<Output> {
    let opened_by = path_of(host, "main")?;
    let mut running = registry.running();
    let (server, is_new) = server_at(address, &running.servers, &mut options)?;
    options.end("where nothing but metrics is served")?;
    let url = server.url();
    if !is_new {
        return Err(Error::usage(format!(
            "litestream: {url} is open already, and tells of all of this process: {url}metrics"
        )));
    }
    running.servers.push(Arc::clone(&server));
    if let Some(path) = &opened_by {
        running.let_go.remove(&(path.clone(), Doing::Serving));
    }
    running.tellers.push(Teller { opened_by, server });
    log::info!("metrics at {url}");
    Ok(url.into())
}

/// Fails if `server` was opened for metrics only.
pub fn check_serves(server: &Arc<Server>, running: &Running) -> Result<()> {
    if running.tellers.iter().any(|teller| Arc::ptr_eq(&teller.server, server)) {
        return Err(Error::usage(format!(
            "litestream: {} is open for metrics only; choose another address, or end it with litestream_stop() from a \
             connection to the database that it was opened from",
            server.url()
        )));
    }
    Ok(())
}
