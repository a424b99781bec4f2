//! The hook on the commits of a connection that serves: it wakes the tail, and does the work of
//! SQLite's auto-checkpoint, whose place it takes.
//!
//! SQLite has one such hook for all schemas of a connection, does not say whose it is, and gives
//! back only the argument of one that is replaced, not the function. So ours only ever takes the
//! place of SQLite's own, which `PRAGMA wal_autocheckpoint` tells from all others; and it is never
//! taken out from outside, where it may long be the application's. It gives its place back itself
//! when it is called and nothing is served any more: what is called is what is in place.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::session::Session;
use crate::base::Result;
use crate::primary::Primary;
use crate::sqlite::{CommitHook, Host};

/// What the hook of one connection does.
#[derive(Default)]
pub struct Commits {
    /// The auto-checkpoint that it took the place of, in frames.
    frames: AtomicU32,
    /// The databases that the connection serves, by the names of their schemas.
    served: Mutex<Vec<(String, Weak<Primary>)>>,
}

/// Wakes the tail of `primary` at each commit of `host` to `schema`. Where the application has
/// switched the auto-checkpoint off, or has a hook of its own, that stays, and commits are seen by
/// looking.
pub fn watch(host: Host, session: &Session, schema: &str, primary: &Arc<Primary>) -> Result<()> {
    let mut session = session.lock();
    // One that was made before may be in place still: it is for all schemas.
    if let Some(hook) = session.commits {
        hook.serve(schema, primary);
    }
    let frames = host.auto_checkpoint()?;
    if frames == 0 {
        return Ok(());
    }
    let hook = match session.commits {
        Some(hook) => hook,
        None => {
            // Never freed: SQLite does not tell when another takes its place. One for each
            // connection that serves.
            let hook: &'static Commits = Box::leak(Box::default());
            hook.serve(schema, primary);
            session.commits.insert(hook)
        }
    };
    hook.frames.store(frames, Relaxed);
    host.on_commit(hook);
    Ok(())
}

impl Commits {
    fn serve(&self, schema: &str, primary: &Arc<Primary>) {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.retain(|(name, _)| name != schema);
        served.push((schema.to_string(), Arc::downgrade(primary)));
    }

    /// The primary of `schema`, and whether this connection serves any.
    fn find(&self, schema: &str) -> (Option<Arc<Primary>>, bool) {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.retain(|(_, primary)| primary.upgrade().is_some_and(|primary| !primary.is_stopped()));
        let found = served.iter().find(|(name, _)| name == schema).and_then(|(_, primary)| primary.upgrade());
        (found, !served.is_empty())
    }
}

impl CommitHook for Commits {
    fn committed(&self, host: Host, schema: &str, frames: u32) {
        let limit = self.frames.load(Relaxed);
        let (primary, serves) = self.find(schema);
        if frames >= limit
            && let Some(primary) = &primary
        {
            // What the application has set meanwhile counts when our own connections are closed.
            host.share_close_settings(schema, primary.path());
        }
        match primary {
            Some(primary) => primary.committed(host, schema, frames, limit),
            // All that SQLite's own would do.
            None if frames >= limit => drop(host.checkpoint(schema)),
            None => {}
        }
        if !serves {
            host.set_auto_checkpoint(limit);
        }
    }
}
