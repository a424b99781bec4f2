//! Many clients of one primary in one process, that speak as much of version 2 of `docs/protocol.md` as it takes to know when which
//! commit has arrived.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Result, clock};

/// Size of a record's header, and where in it stand the type, the index, the offset, and the size of the payload.
const HEADER: usize = 40;
const AT_INDEX: usize = 16;
const AT_OFFSET: usize = 24;
const AT_PAYLOAD: usize = 32;
/// Types of records.
const COMMIT: u32 = 5;
const ERROR: u32 = 7;
/// How long all may take to connect, or to get what was committed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much is read at once.
const PIECE: usize = 16 << 10;

/// Index and offset in it; orders the commits of one generation.
type At = (u64, u64);

/// When a commit record arrived: the state that it completes, and monotonic nanoseconds.
type Arrival = (At, u64);

/// How long each commit took to each client, in nanoseconds and sorted; and the bytes that came altogether, but for those before
/// the first commit record.
pub struct Arrivals {
    /// One for each commit and client.
    pub lags: Vec<u64>,
    /// Of all clients.
    pub bytes: u64,
}

/// All of them.
pub struct Subscribers {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Of each client.
    arrived: Vec<Vec<Arrival>>,
    bytes: u64,
    failed: Option<String>,
}

static SUBSCRIBERS: OnceLock<Arc<Subscribers>> = OnceLock::new();

impl Subscribers {
    /// Connects `streams` times, and waits until each has got a commit record: it has all then that was there before.
    pub fn begin(address: &str, streams: usize, compression: &str) -> Result<()> {
        let state = State { arrived: vec![Vec::new(); streams], ..State::default() };
        let all = Arc::new(Subscribers { state: Mutex::new(state), changed: Condvar::new() });
        SUBSCRIBERS.set(all.clone()).map_err(|_| "this worker subscribes already")?;
        let compression = match compression {
            "" => String::new(),
            name => format!("Litestream-Compression: {name}\r\n"),
        };
        let request =
            format!("GET /stream HTTP/1.1\r\nHost: {address}\r\nLitestream-Stream-Version: 2\r\n{compression}\r\n");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (shared, address) = (all.clone(), address.to_owned());
        thread::spawn(move || {
            runtime.block_on(async {
                let clients = (0..streams).map(|client| {
                    let (shared, address, request) = (shared.clone(), address.clone(), request.clone());
                    tokio::spawn(async move {
                        let ended = subscribe(&shared, client, &address, &request).await;
                        shared.fail(format!("client {client}: {ended:?}"));
                    })
                });
                for client in clients.collect::<Vec<_>>() {
                    let _ = client.await;
                }
            });
        });
        let mut state = all.wait(|state| state.arrived.iter().all(|of| !of.is_empty()))?;
        state.bytes = 0;
        Ok(())
    }

    /// Waits until the last of the commits, each with its position and the time of COMMIT, has arrived at every client. The first `skip`
    /// are not counted.
    pub fn end(committed: &[Arrival], skip: usize) -> Result<Arrivals> {
        let all = SUBSCRIBERS.get().ok_or("this worker does not subscribe")?;
        let last = committed.last().ok_or("nothing was committed")?.0;
        let state = all.wait(|state| state.arrived.iter().all(|of| of.last().is_some_and(|of| of.0 >= last)))?;
        let counted = committed.get(skip..).unwrap_or(&[]);
        let mut lags = Vec::with_capacity(counted.len() * state.arrived.len());
        for arrived in &state.arrived {
            // Several commits may come as one record: with that of the last of them.
            let lag = |&(at, ns): &Arrival| {
                let (_, then) = arrived.get(arrived.partition_point(|of| of.0 < at))?;
                Some(then.saturating_sub(ns))
            };
            lags.extend(counted.iter().filter_map(lag));
        }
        lags.sort_unstable();
        Ok(Arrivals { lags, bytes: state.bytes })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what came, all at the same time.
    fn note(&self, client: usize, commits: &[At], ns: u64, bytes: usize) {
        let mut state = self.lock();
        state.bytes += bytes as u64;
        if let Some(arrived) = state.arrived.get_mut(client) {
            arrived.extend(commits.iter().map(|at| (*at, ns)));
        }
        drop(state);
        self.changed.notify_all();
    }

    fn fail(&self, why: String) {
        self.lock().failed.get_or_insert(why);
        self.changed.notify_all();
    }

    /// Waits until `done`, or a client failed.
    fn wait(&self, done: impl Fn(&State) -> bool) -> Result<MutexGuard<'_, State>> {
        let unfinished = |state: &mut State| state.failed.is_none() && !done(state);
        let waited = self.changed.wait_timeout_while(self.lock(), PATIENCE, unfinished);
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        match &state.failed {
            Some(why) => Err(why.clone().into()),
            None if waited.timed_out() => Err("not all that should come has come to every client".into()),
            None => Ok(state),
        }
    }
}

/// One client: notes what comes until the stream ends, which it should not.
async fn subscribe(all: &Subscribers, client: usize, address: &str, request: &str) -> Result<()> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(request.as_bytes()).await?;
    let mut bytes = vec![0; PIECE];
    let (mut body, mut records, mut commits) = (Chunks::default(), Records::default(), Vec::new());
    loop {
        let read = connection.read(&mut bytes).await?;
        let now = clock::monotonic_ns();
        let mut rest = bytes.get(..read).filter(|some| !some.is_empty()).ok_or("the stream has ended")?;
        while let Some(data) = body.next(&mut rest)? {
            records.take(data, &mut commits)?;
        }
        all.note(client, &commits, now, read);
        commits.clear();
    }
}

/// An HTTP response in chunks, as it comes.
#[derive(Default)]
struct Chunks {
    /// Of the line that is being read: in the head of the response, or the one before a chunk.
    line: Vec<u8>,
    in_body: bool,
    /// Of the chunk that is being read.
    left: usize,
}

impl Chunks {
    /// The next piece of the body in `rest`, which is moved on past it; none if there is no more.
    fn next<'a>(&mut self, rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>> {
        while !rest.is_empty() {
            if self.left > 0 {
                let (data, after) = rest.split_at(self.left.min(rest.len()));
                self.left -= data.len();
                *rest = after;
                return Ok(Some(data));
            }
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                self.line.extend_from_slice(rest);
                *rest = &[];
                break;
            };
            self.line.extend_from_slice(&rest[..end]);
            *rest = &rest[end + 1..];
            let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
            self.line.clear();
            self.take_line(&line)?;
        }
        Ok(None)
    }

    fn take_line(&mut self, line: &str) -> Result<()> {
        match (self.in_body, line) {
            (false, "") => self.in_body = true,
            (false, line) if line.starts_with("HTTP/") && !line.contains(" 200 ") => return Err(line.into()),
            // The end of a chunk is an empty line.
            (false, _) | (true, "") => {}
            (true, size) => self.left = usize::from_str_radix(size, 16).map_err(|_| format!("{size} is no size"))?,
        }
        Ok(())
    }
}

/// Records as they come: their headers are looked at, their payloads passed over.
#[derive(Default)]
struct Records {
    header: Vec<u8>,
    /// Of the payload of the record that is being read.
    left: u64,
}

impl Records {
    /// Adds the state of each commit whose last byte is in `data`.
    fn take(&mut self, mut data: &[u8], commits: &mut Vec<At>) -> Result<()> {
        while !data.is_empty() {
            if self.header.len() < HEADER {
                let (header, rest) = data.split_at((HEADER - self.header.len()).min(data.len()));
                self.header.extend_from_slice(header);
                data = rest;
                if self.header.len() < HEADER {
                    break;
                }
                self.left = self.number(AT_PAYLOAD);
            }
            let passed = self.left.min(data.len() as u64);
            self.left -= passed;
            data = &data[passed as usize..];
            if self.left > 0 {
                break;
            }
            match self.number(0) >> 32 {
                kind if kind == u64::from(COMMIT) => commits.push((self.number(AT_INDEX), self.number(AT_OFFSET))),
                kind if kind == u64::from(ERROR) => return Err("the primary sends an error".into()),
                _ => {}
            }
            self.header.clear();
        }
        Ok(())
    }

    /// The eight bytes at a place in the header.
    fn number(&self, at: usize) -> u64 {
        self.header[at..at + 8].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
    }
}
