//! Where the library's log goes: warnings to SQLite's error log, and what `LITESTREAM_LOG` asks for to stderr.
//!
//! The host's log callback may use what is gone once its `main` returns; the sqlite3 shell's does. So only the host's own
//! calls hand anything to SQLite: what the library's threads say waits for the next of them.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};
use once_cell::sync::OnceCell;

use crate::sqlite::log_to_sqlite;

/// Result codes of SQLite for its log (<https://www.sqlite.org/rescode.html>).
const SQLITE_NOTICE: i32 = 27;
const SQLITE_WARNING: i32 = 28;
/// Lines that wait at most; the oldest go first.
const WAITING: usize = 100;

struct Logger {
    to_stderr: LevelFilter,
    waiting: Mutex<VecDeque<(i32, String)>>,
}

static LOGGER: OnceCell<Logger> = OnceCell::new();

/// Starts logging; does nothing the second time.
pub fn start() {
    let logger = LOGGER.get_or_init(|| Logger { to_stderr: wanted(), waiting: Mutex::default() });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(logger.to_stderr.max(LevelFilter::Warn));
    }
}

/// Hands SQLite what waits. Only from a call of the host.
pub fn hand_over() {
    let Some(logger) = LOGGER.get() else { return };
    let waiting = std::mem::take(&mut *logger.waiting.lock().unwrap_or_else(PoisonError::into_inner));
    for (code, line) in waiting {
        log_to_sqlite(code, &line);
    }
}

/// The level that `LITESTREAM_LOG` names: error, warn, info, debug or trace; nothing otherwise.
fn wanted() -> LevelFilter {
    std::env::var("LITESTREAM_LOG").ok().and_then(|level| level.trim().parse().ok()).unwrap_or(LevelFilter::Off)
}

impl Log for Logger {
    /// Only what this library says itself; its dependencies log every connection.
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.target().starts_with("litestream")
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = record.args().to_string();
        let line = if text.starts_with("litestream") { text } else { format!("litestream: {text}") };
        if record.level() <= self.to_stderr {
            let level = record.level().as_str().to_lowercase();
            // One write, so that nothing of the host's gets into the line. A stderr that takes nothing is the host's affair:
            // `eprintln` would panic, and end whoever logs.
            let _ = std::io::stderr().write_all(format!("{level} {line}\n").as_bytes());
        }
        if record.level() <= Level::Warn {
            let code = if record.level() == Level::Error { SQLITE_WARNING } else { SQLITE_NOTICE };
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() == WAITING {
                waiting.pop_front();
            }
            waiting.push_back((code, line));
        }
    }

    fn flush(&self) {}
}
