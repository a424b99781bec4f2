//! `litestream_serve(addr [, options])`

use std::sync::Arc;

use super::commits;
use super::options::Options;
use super::registry::{Doing, Followed, Registry, Served, file_of, path_of, told};
use super::relay::Relay;
use super::session::Session;
use super::settings;
use crate::base::{Error, Kind, Result};
use crate::net::Server;
use crate::primary::{Options as Serving, Primary};
use crate::sqlite::{Call, Host, Output};

const NAME: &str = "litestream_serve";
/// Options of one database; those of its address come on top.
const OPTIONS: [&str; 5] = ["schema", "checkpoint_frames", "wal_limit", "heartbeat_ms", "metrics_only"];

/// Starts to serve the database of the calling connection. Returns its URL.
pub fn serve(call: &Call, session: &Session, registry: &Registry) -> Result<Output> {
    let mut options = Options::read(call, 1, NAME, &known())?;
    if call.count() > 0 {
        options.put("addr", super::text(call, 0, NAME, "the address")?);
    }
    session.lock().manual = None;
    begin(call.host(), session, registry, options)
}

/// The options of which nothing is given by a call.
pub fn not_given() -> Options {
    Options::none(NAME, &known())
}

fn known() -> Vec<&'static str> {
    OPTIONS.into_iter().chain(settings::KNOWN).collect()
}

/// Starts to serve, unless the database is served there in the same way already. Returns the URL.
pub fn begin(host: Host, session: &Session, registry: &Registry, mut options: Options) -> Result<Output> {
    let schema = options.text("schema", "main")?;
    options.surround(Some("addr"), path_of(host, &schema)?.as_deref())?;
    let (address, _) = options.place("addr", "an address")?;
    if options.flag("metrics_only")? {
        return super::telling::open(host, registry, &address, options);
    }
    let defaults = Serving::default();
    let serving = Serving {
        checkpoint_frames: options.frames("checkpoint_frames", defaults.checkpoint_frames)?,
        wal_limit: options.number("wal_limit", defaults.wal_limit)?,
        heartbeat: options.milliseconds("heartbeat_ms", defaults.heartbeat)?,
    };
    let path = file_of(host, &schema, "serving")?;
    let relays = registry.follower(&path).is_some();
    check_servable(host, &schema, &path.display().to_string(), relays)?;
    host.share_close_settings(&schema, &path);
    registry.stop_if_lost(&path);
    let mut running = registry.running();
    if let Some(served) = running.served.get(&path) {
        return match difference(served, &address, serving, &mut options)? {
            None => Ok(served.url.clone().into()),
            Some(difference) => Err(Error::usage(format!(
                "litestream: {} is being served already, at {}{difference}; litestream_stop() ends that",
                path.display(),
                served.url
            ))),
        };
    }
    let (server, is_new) = server_at(&address, &running.servers, &mut options)?;
    super::telling::check_serves(&server, &running)?;
    let vfs = host.vfs(&schema)?;
    let primary = match running.followed.get(&path) {
        None => Primary::start(&path, &vfs, serving)?,
        Some(Followed { follower, .. }) => {
            let start = |position, time| {
                Primary::relay(&path, &vfs, position, time, serving).map(|primary| Arc::new(Relay(primary)))
            };
            Arc::clone(&follower.relay_by(start)?.0)
        }
    };
    server.add(Arc::clone(&primary))?;
    let url = server.url_of(&primary);
    if is_new {
        running.servers.push(Arc::clone(&server));
    }
    log::info!("serving {} at {url}", path.display());
    running.let_go.remove(&(path.clone(), Doing::Serving));
    running.served.insert(path, Served { primary: Arc::clone(&primary), server, url: url.clone() });
    if !primary.is_relay() {
        commits::watch(host, session, &schema, &primary)?;
    }
    Ok(url.into())
}

/// In what a database is served otherwise than a call asks for.
fn difference(served: &Served, address: &str, serving: Serving, options: &mut Options) -> Result<Option<String>> {
    let settings = settings::read(options, Some(served.server.settings()))?;
    Ok(match settings.difference(served.server.settings()) {
        _ if !served.server.answers_to(address)? => Some(String::new()),
        Some(difference) => Some(format!(", with other options: {difference}")),
        None if served.primary.options() != serving => Some(", with other options".to_string()),
        None => None,
    })
}

/// The server that listens at `address`, and whether it began to just now. Who may ask there, and how much is taken on, is the
/// same for all that is served at an address.
pub(super) fn server_at(address: &str, servers: &[Arc<Server>], options: &mut Options) -> Result<(Arc<Server>, bool)> {
    let open = find(servers, address)?;
    let settings = settings::read(options, open.as_ref().map(|server| server.settings()))?;
    let Some(server) = open else {
        let server = Server::bind(address, settings, told).map_err(|e| e.within(NAME))?;
        return Ok((Arc::new(server), true));
    };
    match settings.difference(server.settings()) {
        None => Ok((server, false)),
        Some(difference) => Err(options.wrong_use(format!(
            "{} is open already, with other options: {difference}; leave the option out or choose another address",
            server.local_addr()
        ))),
    }
}

/// The server that listens at `address` already.
pub(super) fn find(servers: &[Arc<Server>], address: &str) -> Result<Option<Arc<Server>>> {
    for server in servers {
        if server.listens_at(address)? {
            return Ok(Some(Arc::clone(server)));
        }
    }
    Ok(None)
}

fn check_servable(host: Host, schema: &str, name: &str, relays: bool) -> Result<()> {
    if host.is_read_only(schema)? && !relays {
        return Err(Error::new(
            Kind::ReadOnly,
            format!(
                "litestream: {name} is read-only, opened so or a replica; a replica can be served by the process that \
                 follows with it, or made writable with litestream_promote() first"
            ),
        ));
    }
    let quoted = schema.replace('"', "\"\"");
    let mode = host.query_text(&format!("PRAGMA \"{quoted}\".journal_mode"))?.unwrap_or_default();
    if mode != "wal" {
        return Err(Error::usage(format!(
            "litestream: {name} is not in WAL mode (journal_mode={mode}); run PRAGMA journal_mode=WAL first"
        )));
    }
    let locking = host.query_text(&format!("PRAGMA \"{quoted}\".locking_mode"))?.unwrap_or_default();
    if locking != "normal" {
        return Err(Error::usage(format!(
            "litestream: {name} is locked for this connection alone (locking_mode={locking}); \
             run PRAGMA locking_mode=NORMAL and read from it once first"
        )));
    }
    Ok(())
}
