//! Layer 6: what SQL sees. One file for each function or family, and the registry of what runs in this process.

mod apply;
mod auto;
mod commits;
mod config;
mod credentials;
mod follow;
mod logging;
mod options;
mod position;
mod progress;
mod promote;
mod registry;
mod relay;
mod run;
mod serve;
mod session;
mod setting;
mod settings;
mod snapshot;
mod stop;
mod tables;
mod telling;
mod verify;

use std::sync::{Arc, Weak};

use crate::base::{Error, Kind, Result};
use crate::sqlite::{Call, Host, Output, Value, close_left_open, define_function, define_table};
use registry::{Registry, registry};
use session::Session;

type Function = fn(&Call, &Session, &Registry) -> Result<Output>;

/// Name, least and most number of arguments, body.
const FUNCTIONS: [(&str, i32, i32, Function); 16] = [
    ("litestream_serve", 0, 2, serve::serve),
    ("litestream_pull", 0, 2, follow::pull),
    ("litestream_follow", 0, 2, follow::follow),
    ("litestream_config", 0, 1, config::config),
    ("litestream_snapshot", 1, 2, snapshot::snapshot),
    ("litestream_stop", 0, 0, stop::stop),
    ("litestream_position", 0, 0, position::position),
    ("litestream_wait", 1, 2, position::wait),
    ("litestream_lag", 0, 0, position::lag),
    ("litestream_apply_frame", 3, 3, apply::frame),
    ("litestream_apply_wal", 1, 1, apply::log),
    ("litestream_checksum", 0, 0, verify::checksum),
    ("litestream_verify", 0, 2, verify::verify),
    ("litestream_promote", 0, 0, promote::promote),
    ("litestream_run", 0, 0, run::run),
    ("litestream_version", 0, 0, own_version),
];

/// Registers everything on the connection that loads the extension, and begins what environment and configuration say.
pub fn register(host: Host) -> Result<()> {
    logging::start();
    registry::begin();
    let session = Arc::new(Session::default());
    for (name, least, most, body) in FUNCTIONS {
        for arguments in least..=most {
            let session = Arc::downgrade(&session);
            define_function(host, name, arguments, move |call| answer(body, call, &session))?;
        }
    }
    define_table::<tables::Status>(host, Arc::<Session>::clone(&session))?;
    define_table::<tables::Replicas>(host, Arc::new(()))?;
    define_table::<tables::Wal>(host, Arc::new(()))?;
    define_table::<config::Effective>(host, Arc::new(()))?;
    auto::begin(host, &session, registry()?)
}

fn answer(body: Function, call: &Call, session: &Weak<Session>) -> Result<Output> {
    let session =
        session.upgrade().ok_or_else(|| Error::new(Kind::Internal, "litestream: this connection is closing"))?;
    let done = body(call, &session, registry()?);
    close_left_open();
    logging::hand_over();
    done
}

fn own_version(_: &Call, _: &Session, _: &Registry) -> Result<Output> {
    Ok(env!("CARGO_PKG_VERSION").into())
}

/// Argument `i` as text.
fn text<'a>(call: &Call<'a>, i: usize, function: &str, what: &str) -> Result<&'a str> {
    match call.value(i) {
        Value::Text(text) => Ok(text),
        other => Err(mismatch(function, what, "text", &other)),
    }
}

/// Argument `i` as an integer.
fn integer(call: &Call, i: usize, function: &str, what: &str) -> Result<i64> {
    match call.value(i) {
        Value::Integer(n) => Ok(n),
        other => Err(mismatch(function, what, "an integer", &other)),
    }
}

/// Argument `i` as a blob.
fn blob<'a>(call: &Call<'a>, i: usize, function: &str, what: &str) -> Result<&'a [u8]> {
    match call.value(i) {
        Value::Blob(bytes) => Ok(bytes),
        other => Err(mismatch(function, what, "a blob", &other)),
    }
}

fn mismatch(function: &str, what: &str, expected: &str, found: &Value) -> Error {
    Error::new(Kind::Mismatch, format!("{function}: {what} is {}, expected {expected}", found.type_name()))
}
