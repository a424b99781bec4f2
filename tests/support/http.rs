//! HTTP by hand: a request goes out over a plain socket, an answer is read as it comes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use super::{DEADLINE, address};

/// An answer whose body is still on its way.
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    from: BufReader<TcpStream>,
    /// Bytes left of the chunk being read; none when the body ends with the connection.
    chunk: Option<u64>,
    ended: bool,
}

/// Asks the server at `url` (`http://host:port`, a path after it is ignored) for `target`.
pub fn get(url: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    request("GET", url, target, headers)
}

/// The same with another method.
pub fn request(method: &str, url: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    let address = address(url);
    let socket = TcpStream::connect(address).unwrap_or_else(|e| panic!("connecting to {address}: {e}"));
    request_over(socket, method, target, headers)
}

/// The same over a socket that is connected to the server.
pub fn request_over(mut socket: TcpStream, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
    let address = socket.peer_addr().expect("the other end of a socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline for a socket");
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\n");
    headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    head.push_str("\r\n");
    socket.write_all(head.as_bytes()).expect("sending a request");
    Response::read(BufReader::new(socket))
}

impl Response {
    fn read(mut from: BufReader<TcpStream>) -> Response {
        let first = line(&mut from);
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not an HTTP answer: {first}"));
        let mut headers = Vec::new();
        loop {
            let text = line(&mut from);
            match text.split_once(':') {
                Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_string())),
                None => break,
            }
        }
        let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, n)| n.parse::<u64>().ok());
        // A body of known length is one chunk that ends the body.
        let chunk = if chunked { Some(0) } else { length };
        Response { status, headers, from, chunk, ended: length == Some(0) }
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Address and port of this end.
    pub fn client(&self) -> String {
        self.from.get_ref().local_addr().expect("the address of a socket").to_string()
    }

    /// The whole body as text.
    pub fn text(mut self) -> String {
        let mut text = String::new();
        self.read_to_string(&mut text).expect("a body of text");
        text
    }

    fn next_chunk(&mut self) {
        let size = line(&mut self.from);
        let size = u64::from_str_radix(size.trim(), 16).unwrap_or_else(|_| panic!("not the size of a chunk: {size}"));
        if size == 0 {
            line(&mut self.from);
            self.ended = true;
        }
        self.chunk = Some(size);
    }
}

impl Read for Response {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.chunk == Some(0) && !self.ended {
            self.next_chunk();
        }
        let Some(left) = self.chunk else { return self.from.read(buffer) };
        if self.ended {
            return Ok(0);
        }
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let got = self.from.read(&mut buffer[..most])?;
        self.chunk = Some(left - got as u64);
        if got == 0 {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        if self.chunk == Some(0) {
            self.after_chunk();
        }
        Ok(got)
    }
}

impl Response {
    fn after_chunk(&mut self) {
        match self.header("content-length") {
            Some(_) => self.ended = true,
            None => assert_eq!(line(&mut self.from), "", "the line after a chunk"),
        }
    }
}

fn line(from: &mut BufReader<TcpStream>) -> String {
    let mut text = String::new();
    from.read_line(&mut text).expect("a line of an HTTP answer");
    text.trim_end_matches(['\r', '\n']).to_string()
}
