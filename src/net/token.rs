//! Secrets that let a client in.

use std::fmt;
use std::path::Path;

use crate::base::{Error, Kind, Result};

/// The longest token, in bytes: it must fit into the head of a request.
const LONGEST: usize = 1024;
/// The longest file of tokens, in bytes.
const LONGEST_FILE: usize = 1 << 20;

/// A secret that a client shows. Nothing of this library shows it to anybody else: not an error, a log or a table.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes `text` as a token. It stands in the head of a request, and so holds letters, digits and punctuation of ASCII only.
    pub fn new(text: &str) -> Result<Token> {
        match text {
            "" => {
                Err(Error::usage("the token is empty; expected a long random text, such as openssl rand -hex 32 makes"))
            }
            _ if text.len() > LONGEST => {
                Err(Error::usage(format!("the token has {} characters, expected at most {LONGEST}", text.len())))
            }
            _ if !text.bytes().all(|b| b.is_ascii_graphic()) => Err(Error::usage(
                "the token holds a space, or what is no ASCII; expected letters, digits and punctuation",
            )),
            _ => Ok(Token(text.to_string())),
        }
    }

    /// The tokens in a file, one a line. Empty lines, and those that begin with `#`, mean nothing.
    pub(super) fn read_file(path: &Path) -> Result<Vec<Token>> {
        let name = path.display();
        let bytes = std::fs::read(path)
            .map_err(|e| Error::new(Kind::CantOpen, format!("the file of tokens {name} cannot be read: {e}")))?;
        let text = String::from_utf8(bytes).ok().filter(|text| text.len() <= LONGEST_FILE);
        let text = text.ok_or_else(|| Error::usage(format!("{name} is not a file of tokens; expected one a line")))?;
        let lines = text.lines().map(str::trim).enumerate();
        let tokens = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let tokens: Vec<Token> = tokens
            .map(|(n, line)| Token::new(line).map_err(|e| e.within(format!("{name}, line {}", n + 1))))
            .collect::<Result<_>>()?;
        match tokens.is_empty() {
            true => Err(Error::usage(format!("{name} holds no token; expected one a line"))),
            false => Ok(tokens),
        }
    }

    /// The secret itself.
    pub(super) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_stand_in_a_header_is_no_token_and_is_not_shown() {
        for text in ["", "two words", "line\nbreak", "tab\t", "pässword", "nul\0", &"x".repeat(LONGEST + 1)] {
            let said = Token::new(text).map(|_| ()).expect_err("no token").to_string();
            assert!(said.contains("expected") && (text.is_empty() || !said.contains(text)), "{said}");
        }
        for text in ["x", "0123456789abcdef", "a/b+c==", "!#$%&'()*+,-./:;<=>?@[]^_`{|}~", &"x".repeat(LONGEST)] {
            assert_eq!(Token::new(text).map(|token| token.secret().to_string()), Ok(text.to_string()));
        }
        assert_eq!(format!("{:?}", Token::new("s3cret")), "Ok(Token)");
    }

    #[test]
    fn a_file_holds_a_token_a_line() {
        let path = std::env::temp_dir().join(format!("litestream-tokens-{}", std::process::id()));
        for (text, expected) in [
            ("one\n", Ok(vec!["one"])),
            ("# new\none\r\n\n  two  \n#three\nfour", Ok(vec!["one", "two", "four"])),
            ("", Err("holds no token")),
            ("# none\n\n", Err("holds no token")),
            ("one\nnot a token\n", Err("line 2: the token holds a space")),
        ] {
            std::fs::write(&path, text).expect("a file");
            let read =
                Token::read_file(&path).map(|all| all.iter().map(|t| t.secret().to_string()).collect::<Vec<_>>());
            match (read, expected) {
                (Ok(read), Ok(expected)) => assert_eq!(read, expected, "{text:?}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text:?}: {error}"),
                (read, _) => panic!("{text:?}: {read:?}"),
            }
        }
        std::fs::remove_file(&path).expect("the file");
        assert_eq!(Token::read_file(&path).map(|_| ()).map_err(|e| e.kind()), Err(Kind::CantOpen));
    }
}
