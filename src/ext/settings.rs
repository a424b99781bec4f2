//! The options that all that is served at one address has in common.

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

/// The settings given, where what is left out is as `open` has it for an address that is open already. What the environment says was
/// seen when it was opened.
pub fn read(options: &mut Options, open: Option<&Settings>) -> Result<Settings> {
    if open.is_some() {
        options.forget_environment(&KNOWN);
    }
    let mut settings = open.cloned().unwrap_or_default();
    if let Some(tokens) = options.secrets("token")? {
        settings.set_tokens(&tokens);
    }
    settings.token_file = options.path("token_file")?.or(settings.token_file);
    settings.insecure = options.switch("insecure", settings.insecure)?;
    settings.tls.cert = options.path("tls_cert")?.or(settings.tls.cert);
    settings.tls.key = options.path("tls_key")?.or(settings.tls.key);
    settings.tls.client_ca = options.path("client_ca")?.or(settings.tls.client_ca);
    settings.limits = read_limits(options, &settings.limits)?;
    Ok(settings)
}

fn read_limits(options: &mut Options, default: &Limits) -> Result<Limits> {
    Ok(Limits {
        connections: options.number("max_connections", default.connections)?,
        connections_per_address: options.number("max_connections_per_address", default.connections_per_address)?,
        streams: options.number("max_streams", default.streams)?,
        head_bytes: options.number("max_head_bytes", default.head_bytes)?,
        head_timeout: options.milliseconds("head_timeout_ms", default.head_timeout)?,
        body_timeout: options.milliseconds("body_timeout_ms", default.body_timeout)?,
        write_timeout: options.milliseconds("write_timeout_ms", default.write_timeout)?,
    })
}
