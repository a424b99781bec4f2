//! The options that all that is served at one address has in common.

use super::credentials::from_environment;
use super::options::Options;
use crate::base::Result;
use crate::net::{Limits, Settings};

/// Names of the options that [`read`] takes out.
pub const KNOWN: [&str; 13] = [
    "token",
    "token_file",
    "insecure",
    "tls_cert",
    "tls_key",
    "client_ca",
    "max_connections",
    "max_connections_per_address",
    "max_streams",
    "max_head_bytes",
    "head_timeout_ms",
    "body_timeout_ms",
    "write_timeout_ms",
];
/// The least size of the head of a request, in bytes, that a browser can do with.
const LEAST_HEAD: u64 = 1 << 10;

/// The settings given, where what is left out is as `open` has it for an address that is open already. For a new address a token
/// is also taken from the environment, if no option gives any.
pub fn read(options: &mut Options, open: Option<&Settings>) -> Result<Settings> {
    let mut settings = open.cloned().unwrap_or_default();
    let tokens = options.secrets("token")?;
    settings.token_file = options.path("token_file")?.or(settings.token_file);
    match tokens {
        Some(tokens) => settings.set_tokens(&tokens),
        None if open.is_none() && settings.token_file.is_none() => {
            settings.set_tokens(from_environment(options)?.as_slice());
        }
        None => {}
    }
    settings.insecure = options.switch("insecure", settings.insecure)?;
    settings.tls.cert = options.path("tls_cert")?.or(settings.tls.cert);
    settings.tls.key = options.path("tls_key")?.or(settings.tls.key);
    settings.tls.client_ca = options.path("client_ca")?.or(settings.tls.client_ca);
    settings.limits = read_limits(options, &settings.limits)?;
    Ok(settings)
}

fn read_limits(options: &mut Options, default: &Limits) -> Result<Limits> {
    Ok(Limits {
        connections: options.number("max_connections", default.connections, 1)?,
        connections_per_address: options.number("max_connections_per_address", default.connections_per_address, 1)?,
        streams: options.number("max_streams", default.streams, 1)?,
        head_bytes: options.number("max_head_bytes", default.head_bytes, LEAST_HEAD)?,
        head_timeout: options.milliseconds("head_timeout_ms", default.head_timeout, 1)?,
        body_timeout: options.milliseconds("body_timeout_ms", default.body_timeout, 1)?,
        write_timeout: options.milliseconds("write_timeout_ms", default.write_timeout, 1)?,
    })
}
