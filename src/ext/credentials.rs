//! The options by which a client shows who it is, and says whom it believes.

use super::options::{Options, Origin};
use super::setting::TOKENS;
use crate::base::Result;
use crate::net::{Credentials, Token, TokenSource, Url};

/// Names of the options that [`read`] takes out.
pub const KNOWN: [&str; 5] = ["token", "token_file", "ca", "client_cert", "client_key"];

/// The credentials for `url`, which `from` gave. A token is taken from an option of the call, or else from the URL, or else from what
/// surrounds the call.
pub fn read(options: &mut Options, url: &Url, from: &Origin) -> Result<Credentials> {
    let is_of_call = |options: &Options, name: &str| options.origin(name) == Some(&Origin::Call);
    if url.login().is_some() {
        for name in TOKENS {
            if !is_of_call(options, name) {
                options.ignore(name);
            }
        }
    }
    let token = match (token(options)?, options.path("token_file")?) {
        (Some(_), Some(_)) => {
            return Err(options.wrong_use("options 'token' and 'token_file' are both given; expected one"));
        }
        (Some(token), None) => Some(TokenSource::Text(token)),
        (None, Some(path)) => Some(TokenSource::File(path)),
        (None, None) => None,
    };
    // Of what surrounds a call, an upstream that is named in it has no use for what is about TLS. All else that does not fit is an error.
    if *from == Origin::Call && !url.is_encrypted() {
        for name in ["ca", "client_cert", "client_key"] {
            if !is_of_call(options, name) {
                options.ignore(name);
            }
        }
    }
    let certificate = match (options.path("client_cert")?, options.path("client_key")?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err(options.wrong_use("options 'client_cert' and 'client_key' belong together; one is missing")),
    };
    Ok(Credentials { token, ca: options.path("ca")?, certificate })
}

/// The token to show; the first one, where several are meant for serving.
fn token(options: &mut Options) -> Result<Option<Token>> {
    match options.origin("token") {
        Some(Origin::Call) => options.secret("token"),
        _ => Ok(options.secrets("token")?.and_then(|tokens| tokens.into_iter().next())),
    }
}
