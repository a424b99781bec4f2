//! The body of a request, piece by piece, from a client that may send slowly, or for ever.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

/// The least that a body must bring on average once its time is over, in bytes a second.
const LEAST: u64 = 1 << 10;

/// A body being received.
pub struct Upload {
    body: Body,
    /// How long it may bring nothing.
    patience: Duration,
    began: Instant,
    /// Bytes that have come.
    received: u64,
    /// Bytes that may come.
    most: u64,
}

/// Why the rest of a body is not waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It ended before it was over.
    Cut,
    /// It comes too slowly.
    Slow,
    /// There is more of it than there may be.
    Long,
}

impl Upload {
    /// Receives at most `most` bytes of `body`, which may bring nothing for as long as `patience`.
    pub fn new(body: Body, patience: Duration, most: u64) -> Upload {
        Upload { body, patience, began: Instant::now(), received: 0, most }
    }

    /// The next piece; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failed> {
        if self.body.size_hint().lower() > self.most.saturating_sub(self.received) {
            return Err(Failed::Long);
        }
        let enough = self.began + self.patience + Duration::from_secs(self.received / LEAST);
        let until = enough.min(Instant::now() + self.patience);
        loop {
            let frame = match timeout_at(until, self.body.frame()).await {
                Err(_) => return Err(Failed::Slow),
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => frame.map_err(|_| Failed::Cut)?,
            };
            // Trailers mean nothing here.
            let Ok(data) = frame.into_data() else { continue };
            self.received = self.received.saturating_add(data.len() as u64);
            return if self.received > self.most { Err(Failed::Long) } else { Ok(Some(data)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
        Ok(tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(future))
    }

    #[test]
    fn a_body_of_the_right_length_is_received_and_no_byte_more() -> std::io::Result<()> {
        for (most, expected) in [(5, Ok(Some(Bytes::from_static(b"hello")))), (4, Err(Failed::Long))] {
            let mut upload = Upload::new(Body::from("hello"), Duration::from_secs(3600), most);
            assert_eq!(block_on(upload.next())?, expected);
        }
        let mut upload = Upload::new(Body::empty(), Duration::from_secs(3600), 0);
        assert_eq!(block_on(upload.next())?, Ok(None));
        Ok(())
    }
}
