//! `litestream_config([json])`, and the table of the same name: the settings of a database.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::follow;
use super::options::{Options, Origin, object};
use super::registry::{Registry, file_of, path_of};
use super::session::Session;
use super::setting::{Form, SETTINGS, Setting, find};
use crate::base::{Error, Result};
use crate::format::compression::Compression;
use crate::net::{Url, check_address};
use crate::sqlite::{Call, Cells, Host, Output, Table, Value};
use crate::store::Sidecar;

const NAME: &str = "litestream_config";
/// Settings, for errors to show.
const EXAMPLE: &str = "{\"addr\": \"127.0.0.1:9090\"}";
/// What stands for a secret.
const SET: &str = "(set)";

/// Stores settings of the database of the calling connection, where null takes one away. Returns all that are stored, as JSON.
pub fn config(call: &Call, _: &Session, registry: &Registry) -> Result<Output> {
    let path = file_of(call.host(), "main", "a configuration")?;
    if call.count() == 0 {
        return Ok(shown(read(&path)?.map(|(_, stored)| stored).unwrap_or_default()).into());
    }
    let changes = changes(super::text(call, 0, NAME, "the text of the settings")?)?;
    // One call at a time.
    let _running = registry.running();
    Ok(shown(store(&path, changes)?).into())
}

/// Forgets what the database is a replica of.
pub fn forget_upstream(path: &Path) -> Result<()> {
    let forgotten = ["upstream", "overwrite"];
    let stored = read(path)?.is_some_and(|(_, stored)| forgotten.iter().any(|name| stored.contains_key(*name)));
    if stored {
        store(path, forgotten.map(|name| (name.to_string(), Json::Null)).into_iter().collect())?;
    }
    Ok(())
}

/// The file of the settings of the database at `path`, and what it holds. None if there is no file.
pub fn read(path: &Path) -> Result<Option<(PathBuf, Map<String, Json>)>> {
    let sidecar = Sidecar::of(path);
    let Some(text) = sidecar.config()? else { return Ok(None) };
    let file = sidecar.config_path();
    let wrong =
        |what: String| Error::usage(format!("litestream: {} is {what}; mend the file, or remove it", file.display()));
    let mut stored = match serde_json::from_str(&text) {
        Ok(Json::Object(stored)) => stored,
        Ok(_) => return Err(wrong(format!("JSON but no object, such as {EXAMPLE}"))),
        Err(e) => return Err(wrong(format!("not JSON ({e})"))),
    };
    stored.retain(|_, value| !value.is_null());
    checked(stored, &Origin::Config(file.clone())).map(|stored| Some((file, stored)))
}

/// Reads what is to be changed.
fn changes(text: &str) -> Result<Map<String, Json>> {
    let changes = object(text, NAME, "the settings", EXAMPLE)?;
    if changes.get("token").and_then(Json::as_str) == Some(SET) {
        return Err(Error::usage(format!(
            "{NAME}: '{SET}' stands for a token that is not shown; leave it out to keep it"
        )));
    }
    let (taken_away, said): (Map<_, _>, _) = changes.into_iter().partition(|(_, value)| value.is_null());
    taken_away.keys().try_for_each(|name| known(name, &Origin::Call).map(drop))?;
    let mut said = checked(said, &Origin::Call)?;
    said.extend(taken_away);
    Ok(said)
}

fn store(path: &Path, changes: Map<String, Json>) -> Result<Map<String, Json>> {
    let mut stored = read(path)?.map(|(_, stored)| stored).unwrap_or_default();
    let had_secret = has_secret(&stored);
    stored.extend(changes);
    stored.retain(|_, value| !value.is_null());
    let text = serde_json::to_string_pretty(&stored).map_err(|e| Error::usage(format!("{NAME}: {e}")))?;
    Sidecar::of(path).set_config(&text, has_secret(&stored) && !had_secret)?;
    Ok(stored)
}

fn has_secret(stored: &Map<String, Json>) -> bool {
    let upstream = stored.get("upstream").and_then(Json::as_str).and_then(|url| Url::parse(url).ok());
    stored.contains_key("token") || upstream.is_some_and(|url| url.login().is_some())
}

/// Settings that are what they may be. Paths are absolute then.
fn checked(said: Map<String, Json>, origin: &Origin) -> Result<Map<String, Json>> {
    let mut checked = Map::new();
    for (name, value) in said {
        let setting = known(&name, origin)?;
        checked.insert(name, check(setting, value, origin)?);
    }
    Ok(checked)
}

fn known(name: &str, origin: &Origin) -> Result<&'static Setting> {
    find(name).ok_or_else(|| {
        let place = match origin {
            Origin::Config(file) => format!("litestream: {}", file.display()),
            _ => NAME.to_string(),
        };
        let all: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
        Error::usage(format!("{place}: unknown setting '{name}'; known are {}", all.join(", ")))
    })
}

/// The value of one setting, by the same checks as that of the option.
fn check(setting: &'static Setting, value: Json, origin: &Origin) -> Result<Json> {
    let name = setting.name;
    let mut options = Options::none(NAME, &[name]);
    options.add([(name.to_string(), value.clone())].into_iter().collect(), origin);
    let within = |e: Error| e.within(format!("{NAME}: {}", origin.naming(name)));
    match setting.form {
        Form::Address => {
            options.place(name, "an address").and_then(|(text, _)| check_address(&text).map_err(within))?
        }
        Form::Upstream => {
            options.place(name, "a URL").and_then(|(text, _)| Url::parse(&text).map(drop).map_err(within))?
        }
        Form::Tokens => drop(options.secrets(name)?),
        Form::Path => {
            let path = options.path(name)?.unwrap_or_default();
            return Ok(path.to_string_lossy().into());
        }
        Form::Flag => drop(options.flag(name)?),
        Form::Number(_) => drop(options.number(name, 0)?),
        Form::Compression => drop(options.choice(name, Compression::None, &Compression::ALL, Compression::name)?),
    }
    Ok(value)
}

/// As JSON, without secrets.
fn shown(stored: Map<String, Json>) -> String {
    let public = |(name, value): (String, Json)| {
        let value = find(&name).map(|setting| public(setting, &value)).unwrap_or_default();
        (name, value)
    };
    Json::Object(stored.into_iter().map(public).collect()).to_string()
}

/// What may be shown of a value.
fn public(setting: &Setting, value: &Json) -> Json {
    match (setting.form, value.as_str()) {
        (Form::Tokens, _) => SET.into(),
        (Form::Upstream, Some(url)) => Url::parse(url).map(|url| url.to_string()).unwrap_or_default().into(),
        _ => value.clone(),
    }
}

/// One row for each setting: what it is for the database of the connection, and who says so.
pub struct Effective;

impl Table for Effective {
    const NAME: &'static str = NAME;
    const COLUMNS: &'static str = "name TEXT, value, source TEXT";
    const ARGUMENT: Option<std::ffi::c_int> = None;

    fn rows(host: Host, _: Value<'_>) -> Result<Box<dyn Iterator<Item = Result<Cells>>>> {
        let path = path_of(host, "main")?;
        let mut options = Options::none(NAME, &SETTINGS.map(|setting| setting.name));
        options.surround(None, path.as_deref())?;
        let rows: Vec<Result<Cells>> = SETTINGS.iter().map(|setting| row(setting, &options, path.as_deref())).collect();
        Ok(Box::new(rows.into_iter()))
    }
}

fn row(setting: &'static Setting, options: &Options, path: Option<&Path>) -> Result<Cells> {
    let Some((value, origin)) = options.said(setting.name) else {
        return Ok(vec![setting.name.into(), (setting.default)(), "default".into()]);
    };
    let value = public(setting, &check(setting, value.clone(), origin)?);
    let value = match (setting.form, value) {
        (Form::Upstream, Json::String(url)) => follow::full_url(&url, origin, path)?.to_string().into(),
        (_, Json::String(text)) => text.into(),
        (_, Json::Number(n)) => n.as_u64().into(),
        (_, other) => other.to_string().into(),
    };
    let source = match origin {
        Origin::Config(_) => "config",
        _ => "environment",
    };
    Ok(vec![setting.name.into(), value, source.into()])
}
