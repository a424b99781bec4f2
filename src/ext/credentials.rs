//! The options by which a client shows who it is, and says whom it believes.

use super::options::Options;
use crate::base::{Error, Result};
use crate::net::{Credentials, Token, TokenSource, Url};

/// Names of the options that [`read`] takes out.
pub const KNOWN: [&str; 5] = ["token", "token_file", "ca", "client_cert", "client_key"];

/// The credentials for `url`. A token is taken from an option, or else from the URL, or else from the environment.
pub fn read(options: &mut Options, url: &Url) -> Result<Credentials> {
    let token = match (options.secret("token")?, options.path("token_file")?) {
        (Some(_), Some(_)) => {
            return Err(options.wrong_use("options 'token' and 'token_file' are both given; expected one"));
        }
        (Some(token), None) => Some(TokenSource::Text(token)),
        (None, Some(path)) => Some(TokenSource::File(path)),
        (None, None) if url.login().is_some() => None,
        (None, None) => from_environment(options)?.map(TokenSource::Text),
    };
    let certificate = match (options.path("client_cert")?, options.path("client_key")?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err(options.wrong_use("options 'client_cert' and 'client_key' belong together; one is missing")),
    };
    Ok(Credentials { token, ca: options.path("ca")?, certificate })
}

/// The token in the environment.
pub fn from_environment(options: &Options) -> Result<Option<Token>> {
    Token::from_environment().map_err(|e: Error| options.wrong_use(e))
}
