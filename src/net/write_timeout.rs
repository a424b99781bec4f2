//! A socket that gives up on a client that stops reading.
//!
//! A feed goes at the speed of its client, so that one that does not read would keep its connection and its place among
//! the replicas for as long as its machine is there.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A socket on which a write fails, with [`io::ErrorKind::TimedOut`], when none of it was taken for a time.
pub struct WriteTimeout<S> {
    socket: S,
    timeout: Duration,
    /// Runs from the first write that had to wait to the next one that did not.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteTimeout<S> {
    /// Gives each write on `socket` that long.
    pub fn new(socket: S, timeout: Duration) -> WriteTimeout<S> {
        WriteTimeout { socket, timeout, waiting: None }
    }

    /// What became of a write, seen against the time it has.
    fn limit<T>(&mut self, wrote: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.waiting = None;
            return wrote;
        }
        let timeout = self.timeout;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(timeout)));
        waiting.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.limit(wrote, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.socket).poll_write_vectored(context, pieces);
        self.limit(wrote, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    // A TCP socket has nothing to flush, and shuts down without waiting.

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Takes one byte of every write but those that find it busy.
    struct Taker {
        busy: bool,
    }

    impl AsyncWrite for Taker {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            if self.busy { Poll::Pending } else { Poll::Ready(Ok(1)) }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn block_on<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(future)
    }

    #[test]
    fn a_write_of_which_nothing_is_taken_fails() {
        let mut socket = WriteTimeout::new(Taker { busy: true }, Duration::from_millis(1));
        let wrote = block_on(poll_fn(|context| Pin::new(&mut socket).poll_write(context, b"bytes")));
        assert_eq!(wrote.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut));
    }

    #[test]
    fn the_time_begins_anew_when_something_was_taken() -> io::Result<()> {
        let mut socket = WriteTimeout::new(Taker { busy: true }, Duration::from_secs(3600));
        block_on(poll_fn(|context| {
            assert!(Pin::new(&mut socket).poll_write(context, b"bytes").is_pending());
            let since = socket.waiting.as_ref().map(|waiting| waiting.deadline());
            assert!(Pin::new(&mut socket).poll_write(context, b"bytes").is_pending());
            assert_eq!(socket.waiting.as_ref().map(|waiting| waiting.deadline()), since, "waiting goes on");
            assert!(Pin::new(&mut socket).poll_flush(context).is_ready());
            assert!(socket.waiting.is_some(), "nothing to flush means nothing");
            socket.socket.busy = false;
            assert!(Pin::new(&mut socket).poll_write(context, b"bytes").is_ready());
            assert!(socket.waiting.is_none(), "waiting is over");
            Poll::Ready(Ok(()))
        }))
    }
}
