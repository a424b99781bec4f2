//! The records of a stream as they come, with errors in words.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use super::stop::Stop;
use super::watched::Watch;

/// The records.
pub struct StreamBody<R> {
    /// Where they come from.
    pub inner: R,
    /// Version 1 has no heartbeats: a primary that is not written to sends nothing.
    pub silence_is_normal: bool,
    /// How long it may be silent otherwise.
    pub silence: Duration,
    /// What ends it.
    pub stop: Arc<Stop>,
    /// The connection they come over.
    pub watch: Arc<Watch>,
}

impl<R: Read> Read for StreamBody<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let received = self.watch.received();
            self.watch.allow(self.silence);
            let result = self.inner.read(out);
            let has_come = self.watch.received() != received;
            // A socket shut down under a read can look like the end of the stream.
            if self.stop.is_stopped() && !matches!(result, Ok(n) if n > 0) {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "stopped"));
            }
            match result {
                // A read that timed out has taken nothing, so it can be done again.
                Err(error) if is_timeout(&error) && self.silence_is_normal && !has_come => continue,
                Err(error) => return Err(self.in_words(error, has_come)),
                Ok(n) => return Ok(n),
            }
        }
    }
}

impl<R> StreamBody<R> {
    fn in_words(&self, error: io::Error, has_come: bool) -> io::Error {
        let kind = error.kind();
        if is_timeout(&error) {
            let time = self.silence.as_millis();
            let message = match has_come {
                true => format!("what came for {time} ms was no part of a stream; was it damaged on the way?"),
                false => format!("nothing came for {time} ms, not even a heartbeat"),
            };
            return io::Error::new(io::ErrorKind::TimedOut, message);
        }
        match kind {
            io::ErrorKind::UnexpectedEof => {
                io::Error::new(kind, "the connection was closed in the middle of the stream")
            }
            _ => io::Error::new(kind, super::printable(&error.to_string())),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    matches!(inner, Some(ureq::Error::Timeout(_)))
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use ureq::Timeout;

    use super::*;

    /// Longer than any test may take.
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn silence_of_a_server_of_2022_is_waited_out() {
        struct LateThenDone(u32);
        impl Read for LateThenDone {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                match self.0 {
                    1 | 2 => Err(io::Error::other(ureq::Error::Timeout(Timeout::PerRead))),
                    3 => io::Cursor::new(b"x").read(out),
                    _ => Ok(0),
                }
            }
        }
        let body = |silence_is_normal| StreamBody {
            inner: LateThenDone(0),
            silence_is_normal,
            silence: HOUR,
            stop: Arc::default(),
            watch: Arc::default(),
        };
        let mut text = String::new();
        body(true).read_to_string(&mut text).expect("patience");
        assert_eq!(text, "x");
        assert_eq!(body(false).read_to_string(&mut text).map_err(|e| e.kind()), Err(io::ErrorKind::TimedOut));
    }
}
