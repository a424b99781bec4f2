//! The options of a function: a JSON object in its last argument. What that leaves out, environment and database say.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::config;
use super::setting::{SETTINGS, Setting, TOKENS, find, least};
use crate::base::{Error, Result};
use crate::net::Token;
use crate::sqlite::{Call, Value};

/// Options as given; each is taken out as it is read.
pub struct Options {
    function: &'static str,
    known: Vec<&'static str>,
    given: BTreeMap<String, (Json, Origin)>,
}

/// Who said something. What comes first here counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The call.
    Call,
    /// A variable of the environment.
    Environment,
    /// This file, which belongs to the database.
    Config(PathBuf),
}

impl Origin {
    /// What `name` is called there.
    pub fn naming(&self, name: &str) -> String {
        match (self, find(name)) {
            (Origin::Environment, Some(setting)) => setting.variable(),
            (Origin::Config(file), _) => format!("'{name}' in {}", file.display()),
            _ => format!("option '{name}'"),
        }
    }
}

impl Options {
    /// None yet, for `function`, which knows those named.
    pub fn none(function: &'static str, known: &[&'static str]) -> Options {
        Options { function, known: known.to_vec(), given: BTreeMap::new() }
    }

    /// Reads argument `i` of a call, where NULL or nothing means no options. Any key not among `known` is an error.
    pub fn read(call: &Call, i: usize, function: &'static str, known: &[&'static str]) -> Result<Options> {
        let text = match call.value(i) {
            Value::Null => "{}",
            Value::Text(text) => text,
            other => return Err(super::mismatch(function, "the text of the options", "a JSON object", &other)),
        };
        let given = object(text, function, "the options", "{\"schema\": \"main\"}")?;
        if let Some(unknown) = given.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(Error::usage(format!(
                "{function}: unknown option '{unknown}'; known are {}",
                known.join(", ")
            )));
        }
        let mut options = Options::none(function, known);
        options.add(given, &Origin::Call);
        Ok(options)
    }

    /// Takes in what `origin` says. What was said before counts.
    pub fn add(&mut self, said: Map<String, Json>, origin: &Origin) {
        let has_token = TOKENS.iter().any(|name| self.given.contains_key(*name));
        for (name, value) in said {
            if !(has_token && TOKENS.contains(&name.as_str())) {
                self.given.entry(name).or_insert((value, origin.clone()));
            }
        }
    }

    /// Adds what the call gives outside of its options: the address, or the URL.
    pub fn put(&mut self, name: &'static str, text: &str) {
        self.given.insert(name.to_string(), (text.into(), Origin::Call));
    }

    /// Adds what environment and configuration of `database` say of the options known, and of `place`, where the call does not.
    pub fn surround(&mut self, place: Option<&'static str>, database: Option<&Path>) -> Result<()> {
        self.known.extend(place);
        let known = |options: &Options, setting: &&Setting| options.known.contains(&setting.name);
        let mut environment = Map::new();
        for setting in SETTINGS.iter().filter(|setting| known(self, setting)) {
            let Some(text) = setting.in_environment() else { continue };
            let text = text.to_str().ok_or_else(|| self.wrong_use(format!("{} is not UTF-8", setting.variable())))?;
            environment.insert(setting.name.to_string(), setting.read(text));
        }
        self.add(environment, &Origin::Environment);
        if let Some((file, mut stored)) = database.map(config::read).transpose()?.flatten() {
            stored.retain(|name, _| self.known.contains(&name.as_str()));
            self.add(stored, &Origin::Config(file));
        }
        Ok(())
    }

    /// Takes back what the environment says of the options named.
    pub fn forget_environment(&mut self, names: &[&str]) {
        self.given.retain(|name, (_, origin)| *origin != Origin::Environment || !names.contains(&name.as_str()));
    }

    /// What is said of an option, by whom. It stays.
    pub fn said(&self, name: &str) -> Option<&(Json, Origin)> {
        self.given.get(name)
    }

    /// Takes an option out that counts for nothing.
    pub fn ignore(&mut self, name: &str) {
        self.given.remove(name);
    }

    /// Who says something of an option, if anybody does.
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        self.given.get(name).map(|(_, origin)| origin)
    }

    /// The address, or the URL.
    pub fn place(&mut self, name: &'static str, what: &str) -> Result<(String, Origin)> {
        match self.given.remove(name) {
            Some((Json::String(text), origin)) if !text.is_empty() || origin == Origin::Call => Ok((text, origin)),
            Some((other, origin)) => Err(self.wrong(name, &origin, what, &other)),
            None => Err(self.wrong_use(format!(
                "{what} is missing; give one as the first argument, in {}, or as '{name}' with litestream_config",
                find(name).map(Setting::variable).unwrap_or_default()
            ))),
        }
    }

    /// A text.
    pub fn text(&mut self, key: &str, default: &str) -> Result<String> {
        match self.given.remove(key) {
            None => Ok(default.to_string()),
            Some((Json::String(text), _)) => Ok(text),
            Some((other, origin)) => Err(self.wrong(key, &origin, "a text", &other)),
        }
    }

    /// One of `known`, by its name.
    pub fn choice<T: Copy>(
        &mut self,
        key: &str,
        default: T,
        known: &[T],
        name: impl Fn(T) -> &'static str,
    ) -> Result<T> {
        let Some((json, origin)) = self.given.remove(key) else { return Ok(default) };
        let found = known.iter().find(|one| json.as_str() == Some(name(**one)));
        let names = || known.iter().map(|one| format!("\"{}\"", name(*one))).collect::<Vec<_>>().join(" or ");
        found.copied().ok_or_else(|| self.wrong(key, &origin, &names(), &json))
    }

    /// A secret. What was given in its place is not shown.
    pub fn secret(&mut self, key: &str) -> Result<Option<Token>> {
        match self.given.remove(key) {
            None => Ok(None),
            Some((Json::String(text), origin)) => self.token(key, &origin, &text).map(Some),
            Some((_, origin)) => {
                Err(self.wrong_use(format!("{} is not what was expected: a text", origin.naming(key))))
            }
        }
    }

    /// One secret or several.
    pub fn secrets(&mut self, key: &str) -> Result<Option<Vec<Token>>> {
        let Some((json, origin)) = self.given.remove(key) else { return Ok(None) };
        let wrong = || {
            let named = origin.naming(key);
            self.wrong_use(format!("{named} is not what was expected: a text, or an array of some"))
        };
        let texts = match &json {
            Json::String(text) => vec![text.as_str()],
            Json::Array(all) if !all.is_empty() => {
                all.iter().map(|one| one.as_str().ok_or_else(wrong)).collect::<Result<_>>()?
            }
            _ => return Err(wrong()),
        };
        texts.into_iter().map(|text| self.token(key, &origin, text)).collect::<Result<_>>().map(Some)
    }

    fn token(&self, key: &str, origin: &Origin, text: &str) -> Result<Token> {
        Token::new(text).map_err(|e| self.wrong_use(format!("{}: {e}", origin.naming(key))))
    }

    /// The path of a file, which stays that of the file when the process changes its folder.
    pub fn path(&mut self, key: &str) -> Result<Option<PathBuf>> {
        match self.given.remove(key) {
            None => Ok(None),
            // Processes that work in other folders read the same file.
            Some((other, origin @ Origin::Config(_)))
                if !other.as_str().is_some_and(|s| Path::new(s).is_absolute()) =>
            {
                Err(self.wrong(key, &origin, "the absolute path of a file", &other))
            }
            Some((Json::String(text), origin)) if !text.is_empty() => {
                let path = std::path::absolute(text);
                path.map(Some).map_err(|e| self.wrong_use(format!("{}: {e}", origin.naming(key))))
            }
            Some((other, origin)) => Err(self.wrong(key, &origin, "the path of a file", &other)),
        }
    }

    /// True or false; false if it is not given.
    pub fn flag(&mut self, key: &str) -> Result<bool> {
        self.switch(key, false)
    }

    /// True or false.
    pub fn switch(&mut self, key: &str, default: bool) -> Result<bool> {
        match self.given.remove(key) {
            None => Ok(default),
            Some((Json::Bool(flag), _)) => Ok(flag),
            Some((other, origin)) => Err(self.wrong(key, &origin, "true or false", &other)),
        }
    }

    /// A number, from what its setting allows up.
    pub fn number(&mut self, key: &str, default: u64) -> Result<u64> {
        let Some((json, origin)) = self.given.remove(key) else { return Ok(default) };
        let least = least(key);
        let fits = json.as_u64().filter(|n| (least..=i64::MAX as u64).contains(n));
        fits.ok_or_else(|| self.wrong(key, &origin, &format!("a whole number from {least} up"), &json))
    }

    /// A number of frames.
    pub fn frames(&mut self, key: &str, default: u32) -> Result<u32> {
        Ok(u32::try_from(self.number(key, u64::from(default))?).unwrap_or(u32::MAX))
    }

    /// A time in milliseconds.
    pub fn milliseconds(&mut self, key: &str, default: Duration) -> Result<Duration> {
        let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        Ok(Duration::from_millis(self.number(key, default)?))
    }

    /// Fails if an option of the call is left that was not read, and so has no meaning `here`.
    pub fn end(self, here: &str) -> Result<()> {
        match self.given.iter().find(|(_, (_, origin))| *origin == Origin::Call) {
            None => Ok(()),
            Some((key, _)) => {
                Err(Error::usage(format!("{}: option '{key}' has no meaning {here}; leave it out", self.function)))
            }
        }
    }

    /// An error of the function that these are options of.
    pub fn wrong_use(&self, what: impl Display) -> Error {
        Error::usage(format!("{}: {what}", self.function))
    }

    fn wrong(&self, key: &str, origin: &Origin, expected: &str, found: &Json) -> Error {
        Error::usage(format!("{}: {} is {found}, expected {expected}", self.function, origin.naming(key)))
    }
}

/// The JSON object that `text` is, an argument of `function` that is called `what`, in the plural. An error shows `example`.
pub fn object(text: &str, function: &str, what: &str, example: &str) -> Result<Map<String, Json>> {
    let wrong = |found: String| Err(Error::usage(format!("{function}: {what} are {found}")));
    match serde_json::from_str(text) {
        Ok(Json::Object(object)) => Ok(object),
        Ok(_) => wrong(format!("JSON but no object, such as {example}")),
        Err(e) => wrong(format!("not JSON ({e}); expected an object")),
    }
}
