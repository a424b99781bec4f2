//! Addresses of databases that are served.
//!
//! | form | database asked for |
//! |---|---|
//! | `http://host:9090` | the only one served there |
//! | `http://host:9090/app.db` | the one whose file is called `app.db` |
//! | `http://host:9090/var/lib/app.db` | `/var/lib/app.db`: more than one segment is an absolute path |
//! | `http://host:9090//app.db` | `/app.db`, an absolute path of one segment |
//! | `http://host:9090/?path=anything` | `anything`, as it stands |
//!
//! Names are percent-encoded where URLs need it. The scheme is `http` or `https`; the port may be left out (80 and 443). What
//! stands before an `@` is for the server, and never shown: `token@host`, or `user:password@host`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::percent;
use super::token::Token;
use crate::base::{Error, PageSize, Position, Result};
use crate::replica::{Have, PageSums};

const EXAMPLE: &str = "http://127.0.0.1:9090/app.db";

/// Where a replica gets its data from.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    scheme: &'static str,
    /// Sent to the upstream, never shown.
    login: Option<Login>,
    /// `host:port`
    place: String,
    database: Option<String>,
}

/// What a URL says of who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A token alone.
    Token(Token),
    /// `user:password`, percent-decoded.
    Password(String),
}

impl Url {
    /// Reads one of the forms above.
    pub fn parse(text: &str) -> Result<Url> {
        read(text).map_err(|e| e.within(format!("'{}' is not the URL of an upstream", shown(text))))
    }

    /// `scheme://host:port`
    pub fn base(&self) -> String {
        format!("{}://{}", self.scheme, self.place)
    }

    /// Whether what goes there is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.scheme == "https"
    }

    /// Who asks, if the URL says so.
    pub fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    /// Whether the server is on this machine, as far as its address says: 127.0.0.0/8, ::1 or localhost.
    pub fn is_loopback(&self) -> bool {
        let host = self.place.rsplit_once(':').map_or(self.place.as_str(), |(host, _)| host);
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        }
    }

    /// Which database of those served there; none when it is the only one.
    pub fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    /// The same server, and the database called `name` if none is named yet.
    pub fn or_database(self, name: &str) -> Url {
        Url { database: self.database.or_else(|| Some(name.to_string())), ..self }
    }

    /// The stream, for a replica that has this.
    /// Where the server says that it is there.
    pub(super) fn health(&self) -> String {
        format!("{}/healthz", self.base())
    }

    pub(super) fn stream(&self, have: &Have) -> String {
        match have {
            Have::Nothing => self.request("stream", None, None),
            Have::Position(position) => self.request("stream", None, Some(position)),
            Have::Pages(PageSums { page_size, .. }) => self.request("stream", Some(*page_size), None),
        }
    }

    /// The comparison of pages of this size, of a replica at a position.
    pub(super) fn verify(&self, page_size: PageSize, position: Option<&Position>) -> String {
        self.request("verify", Some(page_size), position)
    }

    fn request(&self, what: &str, page_size: Option<PageSize>, position: Option<&Position>) -> String {
        let database = &self.database;
        let path = database.as_ref().map(|database| format!("path={}", percent::encode(database)));
        let page_size = page_size.map(|size| format!("page_size={}", size.get()));
        let position = position.map(|Position { generation, index, offset }| {
            format!("generation={generation}&index={index:016x}&offset={offset:016x}")
        });
        let parameters: Vec<String> = path.into_iter().chain(page_size).chain(position).collect();
        let mark = if parameters.is_empty() { "" } else { "?" };
        format!("{}/{what}{mark}{}", self.base(), parameters.join("&"))
    }
}

/// As a user may see it, without user name and password.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&join(&self.base(), self.database()))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

/// The URL under which `database` (a file name or an absolute path) is served at `address`. An address that stands
/// for every interface is shown as the loopback one, where a client on this machine reaches it.
pub fn of_served(scheme: &str, address: SocketAddr, database: &str) -> String {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    join(&format!("{scheme}://{address}"), Some(database))
}

/// The form that [`Url::parse`] takes apart again: a path where that leads back, or else a query.
fn join(base: &str, database: Option<&str>) -> String {
    let Some(database) = database else { return base.to_string() };
    let encoded = percent::encode(database);
    let path = match database.rfind('/') {
        None | Some(0) => format!("/{encoded}"),
        Some(_) => encoded.clone(),
    };
    let leads_back = path.starts_with('/') && read_database(&path).is_ok_and(|read| read.as_deref() == Some(database));
    if leads_back { format!("{base}{path}") } else { format!("{base}/?path={encoded}") }
}

fn read(text: &str) -> Result<Url> {
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| Error::usage(format!("no scheme; expected http:// or https://, such as {EXAMPLE}")))?;
    let (scheme, default_port) = match scheme.to_ascii_lowercase().as_str() {
        "http" => ("http", 80),
        "https" => ("https", 443),
        _ => return Err(Error::usage("unknown scheme; expected http or https")),
    };
    if rest.contains('#') {
        return Err(Error::usage("a fragment (#) means nothing to a server; in a name, # is written %23"));
    }
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (login, place) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    Ok(Url {
        scheme,
        login: read_login(login)?,
        place: read_place(place, default_port)?,
        database: read_database(rest)?,
    })
}

fn read_login(login: &str) -> Result<Option<Login>> {
    let Some(login) = login.strip_suffix('@') else { return Ok(None) };
    let wrong = |what: &str| Error::usage(format!("{what} before the @; there goes a token, or user:password"));
    if !login.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:".contains(&b)) {
        return Err(wrong("characters that must be percent-encoded"));
    }
    let decoded = percent::decode(login).map_err(|_| wrong("wrong percent-encoding"))?;
    match login.contains(':') {
        // A colon that is encoded belongs to the token.
        false => Token::new(&decoded).map(|token| Some(Login::Token(token))).map_err(|_| wrong("no token")),
        true => Ok(Some(Login::Password(decoded))),
    }
}

/// `host:port` with the port filled in.
fn read_place(place: &str, default_port: u16) -> Result<String> {
    let (host, port) = match place.rfind(':') {
        Some(colon) if !place.ends_with(']') => (&place[..colon], Some(&place[colon + 1..])),
        _ => (place, None),
    };
    if host.is_empty() {
        return Err(Error::usage(format!("no host; expected one, such as in {EXAMPLE}")));
    }
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let good = match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().is_ok(),
        None => host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    if !good {
        return Err(Error::usage("a host that is neither a name nor an address; IPv6 addresses go into [brackets]"));
    }
    let port = match port {
        None => default_port,
        Some(text) => text
            .parse()
            .ok()
            .filter(|&n| n != 0 && text.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(|| Error::usage(format!("port '{}'; expected a number from 1 to 65535", shown(text))))?,
    };
    Ok(format!("{host}:{port}"))
}

/// The database named by path and query.
fn read_database(rest: &str) -> Result<Option<String>> {
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    let name = path.strip_prefix('/').unwrap_or(path);
    match query {
        None if name.is_empty() => Ok(None),
        None if name.ends_with('/') => {
            Err(Error::usage("a path that ends with /; expected the name of a database file"))
        }
        None if name.contains('/') && !name.starts_with('/') => percent::decode(path).map(Some),
        None => percent::decode(name).map(Some),
        Some(query) if name.is_empty() => read_query(query),
        Some(_) => {
            Err(Error::usage("a path and a query; name the database in one of them (? in a name is written %3F)"))
        }
    }
}

fn read_query(query: &str) -> Result<Option<String>> {
    match query.split_once('=') {
        // In a query + stands for a space, as forms and every language's URL library write it.
        Some(("path", value)) if !value.contains('&') && !value.is_empty() => {
            percent::decode(&value.replace('+', " ")).map(Some)
        }
        _ => {
            Err(Error::usage("an unknown query; expected ?path= and the name or path of a database (& is written %26)"))
        }
    }
}

/// `text` as it may stand in an error message: short, printable, without user name and password.
fn shown(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + 3);
    let end = text[start..].find(['/', '?', '#']).map_or(text.len(), |at| start + at);
    let login = text[start..end].rfind('@').map_or(start, |at| start + at + 1);
    super::printable(&format!("{}{}", &text[..start], &text[login..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Generation, Kind};

    fn database(text: &str) -> Result<Option<String>> {
        Url::parse(text).map(|url| url.database().map(str::to_string))
    }

    #[test]
    fn each_form_names_its_database() {
        for (text, expected) in [
            ("http://h:9090", None),
            ("http://h:9090/", None),
            ("http://h:9090/app.db", Some("app.db")),
            ("http://h:9090/my%20app.db", Some("my app.db")),
            ("http://h:9090/my app.db", Some("my app.db")),
            ("http://h:9090/100%25.db", Some("100%.db")),
            ("http://h:9090/donn%C3%A9es.db", Some("données.db")),
            ("http://h:9090/données.db", Some("données.db")),
            ("http://h:9090/a+b@c.db", Some("a+b@c.db")),
            ("http://h:9090/var/lib/app.db", Some("/var/lib/app.db")),
            ("http://h:9090//app.db", Some("/app.db")),
            ("http://h:9090//var/app.db", Some("/var/app.db")),
            ("http://h:9090/?path=/var/lib/app.db", Some("/var/lib/app.db")),
            ("http://h:9090/?path=dir/app.db", Some("dir/app.db")),
            ("http://h:9090?path=a+b%2Bc=d%26.db", Some("a b+c=d&.db")),
            ("http://h:9090/?path=C%3A%5Cdata%5Capp.db", Some("C:\\data\\app.db")),
        ] {
            assert_eq!(database(text), Ok(expected.map(str::to_string)), "{text}");
        }
    }

    #[test]
    fn host_and_port_are_told_apart() {
        for (text, base) in [
            ("http://127.0.0.1:9090/app.db", "http://127.0.0.1:9090"),
            ("HTTP://example.org/app.db", "http://example.org:80"),
            ("https://db_1.example.org", "https://db_1.example.org:443"),
            ("http://[::1]:9090/app.db", "http://[::1]:9090"),
            ("http://[::1]", "http://[::1]:80"),
        ] {
            assert_eq!(Url::parse(text).map(|u| u.base()), Ok(base.to_string()), "{text}");
        }
    }

    #[test]
    fn loopback_is_told_from_the_rest() -> Result<()> {
        for (host, expected) in [
            ("127.0.0.1", true),
            ("127.8.9.10", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]", true),
            ("localhost", true),
            ("LocalHost", true),
            ("128.0.0.1", false),
            ("10.0.0.7", false),
            ("0.0.0.0", false),
            ("[::]", false),
            ("[2001:db8::1]", false),
            ("localhost.example.org", false),
            ("127.example.org", false),
        ] {
            for url in [format!("http://{host}"), format!("https://localhost:pw@{host}:9090/localhost")] {
                assert_eq!(Url::parse(&url)?.is_loopback(), expected, "{url}");
            }
        }
        Ok(())
    }

    #[test]
    fn an_error_says_what_was_found_and_what_to_do() {
        for (text, part) in [
            ("", "no scheme; expected http://"),
            ("127.0.0.1:9090/app.db", "no scheme; expected http://"),
            ("ftp://h/app.db", "unknown scheme; expected http or https"),
            ("file:///app.db", "unknown scheme"),
            ("http://", "no host"),
            ("http:///app.db", "no host"),
            ("http://:9090/app.db", "no host"),
            ("http://user@/app.db", "no host"),
            ("http://h:/app.db", "port ''; expected a number from 1 to 65535"),
            ("http://h:0/app.db", "port '0'"),
            ("http://h:65536/app.db", "port '65536'"),
            ("http://h:+80/app.db", "port '+80'"),
            ("http://h:9090x/app.db", "port '9090x'"),
            ("http://::1:9090/app.db", "IPv6 addresses go into [brackets]"),
            ("http://[::g]:9090/app.db", "neither a name nor an address"),
            ("http://a b/app.db", "neither a name nor an address"),
            ("http://h\r\nx: y/app.db", "neither a name nor an address"),
            ("http://us er:pw@h/app.db", "must be percent-encoded"),
            ("http://h/app.db#top", "# is written %23"),
            ("http://h/dir/", "ends with /"),
            ("http://h/100%.db", "a percent sign itself is written %25"),
            ("http://h/%ff.db", "not UTF-8"),
            ("http://h/a%00.db", "control character"),
            ("http://h/app.db?path=x", "a path and a query"),
            ("http://h/?file=x", "unknown query; expected ?path="),
            ("http://h/?path=", "unknown query"),
            ("http://h/?path=x&index=1", "unknown query"),
        ] {
            let error = Url::parse(text).map_err(|e| (e.kind(), e.to_string()));
            assert!(matches!(&error, Err((Kind::Usage, said)) if said.contains(part)), "{text}: {error:?}");
        }
    }

    #[test]
    fn a_password_is_sent_but_never_shown() -> Result<()> {
        let url = Url::parse("http://ann:s3cret@h:9090/app.db")?;
        assert!(matches!(url.login(), Some(Login::Password(login)) if login == "ann:s3cret"));
        assert_eq!(url.stream(&Have::Nothing), "http://h:9090/stream?path=app.db");
        assert_eq!(format!("{url} {url:?}"), "http://h:9090/app.db Url(http://h:9090/app.db)");
        for wrong in [
            "http://ann:s3cret@h:x/app.db",
            "http://s3cret@",
            "http://s3cret%@h",
            "http://s3cr%65t%0a@h/",
            "http://s3cret @h",
        ] {
            let error = Url::parse(wrong).map_err(|e| e.to_string());
            assert!(
                matches!(&error, Err(said) if !said.contains("s3cr") && !said.contains("ann")),
                "{wrong}: {error:?}"
            );
        }
        Ok(())
    }

    #[test]
    fn what_stands_before_the_at_sign_is_a_token_or_a_login() -> Result<()> {
        let login = |text: &str| Url::parse(text).map(|url| url.login().cloned());
        assert!(login("http://h")?.is_none());
        for (text, expected) in [("t0ken", "t0ken"), ("a%3Ab", "a:b"), ("p%40ss", "p@ss")] {
            let found = login(&format!("https://{text}@h/app.db"))?;
            assert!(matches!(&found, Some(Login::Token(token)) if token.secret() == expected), "{text}");
        }
        for (text, expected) in [("ann:p%40ss", "ann:p@ss"), (":t0ken", ":t0ken"), ("a:b:c", "a:b:c")] {
            let found = login(&format!("https://{text}@h/app.db"))?;
            assert!(matches!(&found, Some(Login::Password(login)) if login == expected), "{text}");
        }
        assert!(login("http://@h").is_err(), "an empty token");
        Ok(())
    }

    #[test]
    fn a_database_is_only_added_where_none_is_named() -> Result<()> {
        for (text, expected) in [
            ("http://h:1", "http://h:1/my%20app.db"),
            ("http://h:1/", "http://h:1/my%20app.db"),
            ("http://h:1/other.db", "http://h:1/other.db"),
            ("http://h:1/?path=x", "http://h:1/x"),
        ] {
            assert_eq!(Url::parse(text)?.or_database("my app.db").to_string(), expected, "{text}");
        }
        Ok(())
    }

    #[test]
    fn the_request_names_database_and_position() -> Result<()> {
        let since = Position { generation: Generation(0x5fdb_81d7_f275_9003), index: 3, offset: 0x8cd40 };
        assert_eq!(Url::parse("http://h:1")?.stream(&Have::Nothing), "http://h:1/stream");
        assert_eq!(
            Url::parse("http://h:1/var/my%20app+.db")?.stream(&Have::Position(since)),
            "http://h:1/stream?path=/var/my%20app%2B.db\
             &generation=5fdb81d7f2759003&index=0000000000000003&offset=000000000008cd40"
        );
        assert_eq!(
            Url::parse("http://h:1")?.stream(&Have::Position(since)),
            "http://h:1/stream?generation=5fdb81d7f2759003&index=0000000000000003&offset=000000000008cd40"
        );
        Ok(())
    }

    #[test]
    fn what_a_server_returns_leads_back_to_its_database() -> Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], 9090));
        assert_eq!(of_served("http", address, "app.db"), EXAMPLE);
        assert_eq!(of_served("https", address, "app.db"), EXAMPLE.replace("http", "https"));
        for name in [
            "app.db",
            "my app%.db",
            "données?#&+.db",
            "/var/lib/my app.db",
            "/app.db",
            "C:\\data\\app.db",
            "a/b",
            "//a",
            "//a/b",
            "///",
            "/",
        ] {
            let url = of_served("http", address, name);
            assert!(url.is_ascii(), "{url}");
            assert_eq!(database(&url), Ok(Some(name.to_string())), "{url}");
            assert_eq!(Url::parse(&url)?.to_string(), url);
        }
        Ok(())
    }

    #[test]
    fn an_address_of_every_interface_is_shown_as_loopback() {
        assert_eq!(of_served("http", SocketAddr::from(([0, 0, 0, 0], 80)), "a"), "http://127.0.0.1:80/a");
        assert_eq!(of_served("http", SocketAddr::from(([0u16; 8], 80)), "a"), "http://[::1]:80/a");
        assert_eq!(of_served("http", SocketAddr::from(([10, 0, 0, 7], 80)), "a"), "http://10.0.0.7:80/a");
    }
}
