//! Every setting that a deployment can make without code: its name, what it may be, and what it is if nobody says.

use std::ffi::OsString;
use std::time::Duration;

use serde_json::Value as Json;

use crate::base::limits;
use crate::sqlite::Output;

/// One setting: an option of `litestream_serve` or `litestream_follow`, or where they serve and what they follow.
pub struct Setting {
    /// Its name as an option, and in a `config.json`.
    pub name: &'static str,
    /// What it may be.
    pub form: Form,
    /// What it is if nobody says.
    pub default: fn() -> Output,
}

/// What a setting may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Where to listen.
    Address,
    /// A URL to follow.
    Upstream,
    /// A secret, or several.
    Tokens,
    /// The path of a file.
    Path,
    /// True or false.
    Flag,
    /// A whole number, from this up.
    Number(u64),
    /// The name of a compression.
    Compression,
}

/// Settings that say the same thing in two ways. One that is nearer to the call counts instead of both.
pub const TOKENS: [&str; 2] = ["token", "token_file"];
/// The least size of the head of a request, in bytes, that a browser can do with.
const LEAST_HEAD: u64 = 1 << 10;

/// All of them, in the order of the manual. `schema` is none: it says which database a call is about.
pub const SETTINGS: [Setting; 28] = [
    Setting::of("addr", Form::Address, || Output::Null),
    Setting::of("upstream", Form::Upstream, || Output::Null),
    Setting::of("token", Form::Tokens, || Output::Null),
    Setting::of("token_file", Form::Path, || Output::Null),
    Setting::of("insecure", Form::Flag, || "false".into()),
    Setting::of("tls_cert", Form::Path, || Output::Null),
    Setting::of("tls_key", Form::Path, || Output::Null),
    Setting::of("client_ca", Form::Path, || Output::Null),
    Setting::of("max_connections", Form::Number(1), || limits::CONNECTIONS.into()),
    Setting::of("max_connections_per_address", Form::Number(1), || limits::CONNECTIONS_PER_ADDRESS.into()),
    Setting::of("max_streams", Form::Number(1), || limits::STREAMS.into()),
    Setting::of("max_head_bytes", Form::Number(LEAST_HEAD), || limits::HEAD_BYTES.into()),
    Setting::of("head_timeout_ms", Form::Number(1), || milliseconds(limits::HEAD_TIMEOUT)),
    Setting::of("body_timeout_ms", Form::Number(1), || milliseconds(limits::BODY_TIMEOUT)),
    Setting::of("write_timeout_ms", Form::Number(1), || milliseconds(limits::WRITE_TIMEOUT)),
    Setting::of("checkpoint_frames", Form::Number(1), checkpoint_frames),
    Setting::of("wal_limit", Form::Number(0), || limits::WAL_LIMIT_BYTES.into()),
    Setting::of("heartbeat_ms", Form::Number(1), || milliseconds(limits::HEARTBEAT)),
    Setting::of("metrics_only", Form::Flag, || "false".into()),
    Setting::of("overwrite", Form::Flag, || "false".into()),
    Setting::of("writable", Form::Flag, || "false".into()),
    Setting::of("timeout_ms", Form::Number(1), || milliseconds(limits::SILENCE)),
    Setting::of("audit_ms", Form::Number(0), || milliseconds(limits::AUDIT)),
    Setting::of("compression", Form::Compression, || "lz4; none on this machine".into()),
    Setting::of("progress", Form::Flag, || "true".into()),
    Setting::of("ca", Form::Path, || Output::Null),
    Setting::of("client_cert", Form::Path, || Output::Null),
    Setting::of("client_key", Form::Path, || Output::Null),
];

fn milliseconds(time: Duration) -> Output {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).into()
}

fn checkpoint_frames() -> Output {
    let (serving, following) = (limits::CHECKPOINT_FRAMES, limits::REPLICA_CHECKPOINT_FRAMES);
    format!("{serving} to serve, {following} to follow").into()
}

/// The setting of that name.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// The least that the number called `name` may be.
pub fn least(name: &str) -> u64 {
    match find(name).map(|setting| setting.form) {
        Some(Form::Number(least)) => least,
        _ => 0,
    }
}

impl Setting {
    const fn of(name: &'static str, form: Form, default: fn() -> Output) -> Setting {
        Setting { name, form, default }
    }

    /// The variable of the environment that sets it.
    pub fn variable(&self) -> String {
        format!("LITESTREAM_{}", self.name.to_uppercase())
    }

    /// What the environment says, if it says anything.
    pub fn in_environment(&self) -> Option<OsString> {
        std::env::var_os(self.variable())
    }

    /// Text as a value of its form. What is none stays text, and is refused as such.
    pub fn read(&self, text: &str) -> Json {
        let other = || Json::from(text);
        match (self.form, text) {
            (Form::Flag, "true" | "1") => true.into(),
            (Form::Flag, "false" | "0") => false.into(),
            (Form::Number(_), _) if text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse::<u64>().map_or_else(|_| other(), Json::from)
            }
            _ => other(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_one_name_and_one_variable() {
        for setting in &SETTINGS {
            assert_eq!(SETTINGS.iter().filter(|other| other.name == setting.name).count(), 1, "{}", setting.name);
            assert!(setting.variable().starts_with("LITESTREAM_"), "{}", setting.variable());
        }
        assert_eq!(find("tls_cert").map(Setting::variable).as_deref(), Some("LITESTREAM_TLS_CERT"));
    }

    #[test]
    fn text_of_the_environment_is_read_as_what_the_setting_may_be() {
        let read = |name: &str, text: &str| find(name).map(|setting| setting.read(text)).unwrap_or_default();
        for (name, text, expected) in [
            ("insecure", "true", Json::from(true)),
            ("insecure", "0", Json::from(false)),
            ("insecure", "yes", Json::from("yes")),
            ("wal_limit", "0", Json::from(0)),
            ("wal_limit", "-1", Json::from("-1")),
            ("wal_limit", "", Json::from("")),
            ("wal_limit", "99999999999999999999", Json::from("99999999999999999999")),
            ("token", "1", Json::from("1")),
            ("addr", "true", Json::from("true")),
        ] {
            assert_eq!(read(name, text), expected, "{name}={text}");
        }
    }
}
