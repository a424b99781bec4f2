//! The options of a function: a JSON object in its last argument.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value as Json};

use crate::base::{Error, Result};
use crate::net::Token;
use crate::sqlite::{Call, Value};

/// Options as given; each is taken out as it is read.
pub struct Options {
    function: &'static str,
    given: Map<String, Json>,
}

impl Options {
    /// Reads argument `i` of a call, where NULL or nothing means no options. Any key not among `known` is an error.
    pub fn read(call: &Call, i: usize, function: &'static str, known: &[&str]) -> Result<Options> {
        let text = match call.value(i) {
            Value::Null => "{}",
            Value::Text(text) => text,
            other => return Err(super::mismatch(function, "the text of the options", "a JSON object", &other)),
        };
        let given = match serde_json::from_str(text) {
            Ok(Json::Object(given)) => given,
            Ok(_) => {
                return Err(Error::usage(format!(
                    "{function}: the options are JSON but no object, such as {{\"schema\": \"main\"}}"
                )));
            }
            Err(e) => {
                return Err(Error::usage(format!("{function}: the options are not JSON ({e}); expected an object")));
            }
        };
        if let Some(unknown) = given.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(Error::usage(format!(
                "{function}: unknown option '{unknown}'; known are {}",
                known.join(", ")
            )));
        }
        Ok(Options { function, given })
    }

    /// A text.
    pub fn text(&mut self, key: &str, default: &str) -> Result<String> {
        match self.given.remove(key) {
            None => Ok(default.to_string()),
            Some(Json::String(text)) => Ok(text),
            Some(other) => Err(self.wrong(key, "a text", &other)),
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
        let Some(json) = self.given.remove(key) else { return Ok(default) };
        let found = known.iter().find(|one| json.as_str() == Some(name(**one)));
        let names = || known.iter().map(|one| format!("\"{}\"", name(*one))).collect::<Vec<_>>().join(" or ");
        found.copied().ok_or_else(|| self.wrong(key, &names(), &json))
    }

    /// A secret. What was given in its place is not shown.
    pub fn secret(&mut self, key: &str) -> Result<Option<Token>> {
        match self.given.remove(key) {
            None => Ok(None),
            Some(Json::String(text)) => self.token(key, &text).map(Some),
            Some(_) => Err(self.wrong_use(format!("option '{key}' is not what was expected: a text"))),
        }
    }

    /// One secret or several.
    pub fn secrets(&mut self, key: &str) -> Result<Option<Vec<Token>>> {
        let wrong = || self.wrong_use(format!("option '{key}' is not what was expected: a text, or an array of some"));
        let texts = match self.given.get(key) {
            None => return Ok(None),
            Some(Json::String(text)) => vec![text.as_str()],
            Some(Json::Array(all)) if !all.is_empty() => {
                all.iter().map(|one| one.as_str().ok_or_else(wrong)).collect::<Result<_>>()?
            }
            Some(_) => return Err(wrong()),
        };
        let tokens = texts.into_iter().map(|text| self.token(key, text)).collect::<Result<_>>()?;
        self.given.remove(key);
        Ok(Some(tokens))
    }

    fn token(&self, key: &str, text: &str) -> Result<Token> {
        Token::new(text).map_err(|e| self.wrong_use(format!("option '{key}': {e}")))
    }

    /// The path of a file, which stays that of the file when the process changes its folder.
    pub fn path(&mut self, key: &str) -> Result<Option<PathBuf>> {
        match self.given.remove(key) {
            None => Ok(None),
            Some(Json::String(text)) if !text.is_empty() => {
                let path = std::path::absolute(text);
                path.map(Some).map_err(|e| self.wrong_use(format!("option '{key}': {e}")))
            }
            Some(other) => Err(self.wrong(key, "the path of a file", &other)),
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
            Some(Json::Bool(flag)) => Ok(flag),
            Some(other) => Err(self.wrong(key, "true or false", &other)),
        }
    }

    /// A number from `least` up.
    pub fn number(&mut self, key: &str, default: u64, least: u64) -> Result<u64> {
        match self.given.remove(key) {
            None => Ok(default),
            Some(json) => match json.as_u64() {
                Some(n) if n >= least && n <= i64::MAX as u64 => Ok(n),
                _ => Err(self.wrong(key, &format!("a whole number from {least} up"), &json)),
            },
        }
    }

    /// A number of frames.
    pub fn frames(&mut self, key: &str, default: u32) -> Result<u32> {
        Ok(u32::try_from(self.number(key, u64::from(default), 1)?).unwrap_or(u32::MAX))
    }

    /// A time in milliseconds.
    pub fn milliseconds(&mut self, key: &str, default: Duration, least: u64) -> Result<Duration> {
        let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        Ok(Duration::from_millis(self.number(key, default, least)?))
    }

    /// Fails if an option is left that was not read, and so has no meaning `here`.
    pub fn end(self, here: &str) -> Result<()> {
        match self.given.keys().next() {
            None => Ok(()),
            Some(key) => {
                Err(Error::usage(format!("{}: option '{key}' has no meaning {here}; leave it out", self.function)))
            }
        }
    }

    /// An error of the function that these are options of.
    pub fn wrong_use(&self, what: impl Display) -> Error {
        Error::usage(format!("{}: {what}", self.function))
    }

    fn wrong(&self, key: &str, expected: &str, found: &Json) -> Error {
        Error::usage(format!("{}: option '{key}' is {found}, expected {expected}", self.function))
    }
}
