//! Addresses to listen on.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use socket2::{Domain, Socket, Type};

use crate::base::{Error, Kind, Result, limits};

/// What `text` stands for, the one to try first in front. `:9090` is port 9090 of the loopback interface, and port 0
/// has one picked.
pub fn resolve(text: &str) -> Result<Vec<SocketAddr>> {
    let (host, port) = split(text)?;
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let found = (bare, port).to_socket_addrs();
    let mut found: Vec<SocketAddr> = found
        .map_err(|error| Error::new(Kind::Usage, format!("{}: host not found ({error})", not_an_address(text))))?
        .collect();
    // A client that tries `localhost` over IPv4 only is more common than one that tries it over IPv6 only.
    found.sort_by_key(SocketAddr::is_ipv6);
    Ok(found)
}

/// Listens on the first of the addresses that `text` stands for that can be had.
pub fn bind(text: &str) -> Result<TcpListener> {
    let mut last = None;
    for address in resolve(text)? {
        match listen(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    let error = last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program, or another process with litestream_serve, listens there; choose another port, \
             or port 0 to have one picked"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; expected one of its own, such as 127.0.0.1, \
             or 0.0.0.0 for all of them"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege; choose a higher one",
        _ => "expected an address of this machine and a free port",
    };
    Err(Error::new(Kind::Io, format!("cannot listen on '{}': {error}; {advice}", super::printable(text))))
}

/// What [`TcpListener::bind`] does, with room for all followers of a primary that come back at the same instant: where a queue of
/// the usual length overflows, the system resets connections that their clients take for open.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(limits::WAITING_CONNECTIONS)?;
    Ok(socket.into())
}

/// Fails if `text` cannot be an address to listen on. Names are not looked up.
pub fn check(text: &str) -> Result<()> {
    split(text).map(drop)
}

pub(super) fn split(text: &str) -> Result<(&str, u16)> {
    let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let bad_host = |host: &str| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        host.contains(['/', '@', '?', '#']) || (host.contains(':') && !bracketed)
    };
    parts.filter(|(host, _)| !bad_host(host)).ok_or_else(|| Error::usage(not_an_address(text)))
}

fn not_an_address(text: &str) -> String {
    format!(
        "'{}' is not an address to listen on; expected host:port, such as 127.0.0.1:9090, [::1]:9090 or 0.0.0.0:0 \
         (port 0 has one picked)",
        super::printable(text)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_an_address_is_understood() -> Result<()> {
        for (text, expected) in [
            ("127.0.0.1:9090", "127.0.0.1:9090"),
            (":9090", "127.0.0.1:9090"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("[::1]:9090", "[::1]:9090"),
        ] {
            let found: Vec<String> = resolve(text)?.iter().map(SocketAddr::to_string).collect();
            assert_eq!(found, [expected], "{text}");
        }
        Ok(())
    }

    #[test]
    fn localhost_is_ipv4_first() -> Result<()> {
        assert_eq!(resolve("localhost:9090")?.first(), Some(&SocketAddr::from(([127, 0, 0, 1], 9090))));
        Ok(())
    }

    #[test]
    fn what_is_not_an_address_is_refused_with_an_example() {
        for text in
            ["", "9090", "127.0.0.1", "127.0.0.1:", ":port", ":65536", ":-1", "::1:9090", "http://127.0.0.1:9090"]
        {
            let error = resolve(text).map_err(|e| (e.kind(), e.to_string()));
            assert!(
                matches!(&error, Err((Kind::Usage, said)) if said.contains("such as 127.0.0.1:9090")),
                "{text}: {error:?}"
            );
        }
    }

    #[test]
    fn an_address_in_use_is_told_so() -> Result<()> {
        let holder = bind("127.0.0.1:0")?;
        let text = holder.local_addr().map_err(|e| Error::io("local address", &e))?.to_string();
        let error = bind(&text).map_err(|e| e.to_string());
        assert!(
            matches!(&error, Err(said) if said.contains(&text) && said.contains("choose another port")),
            "{error:?}"
        );
        Ok(())
    }

    #[test]
    fn an_address_of_another_machine_is_told_so() {
        // 192.0.2.0/24 is set aside for documentation; no machine has it.
        let error = bind("192.0.2.1:0").map_err(|e| e.to_string());
        assert!(matches!(&error, Err(said) if said.contains("does not have that address")), "{error:?}");
    }
}
