//! A bar on the terminal for a catch-up that takes a while, and a row in the status from its first moment on.

use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::registry::{Beginning, Registry};
use crate::net::HttpUpstream;
use crate::replica::Progress;
use crate::sqlite::{guarded, spawn};

/// A catch-up that takes no longer has no bar.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the bar moves.
const EVERY: Duration = Duration::from_millis(200);
const TEMPLATE: &str = "{msg} {wide_bar} {percent}%, {eta} left";

/// Shows a catch-up for as long as it lives.
pub struct Watched<'r> {
    _row: Beginning<'r>,
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl<'r> Watched<'r> {
    /// Shows the catch-up of the database at `path`, with a bar if `bar` says so and standard error is a terminal.
    pub fn begin(
        registry: &'r Registry,
        path: &Path,
        upstream: &HttpUpstream,
        progress: &Arc<Progress>,
        bar: bool,
    ) -> Watched<'r> {
        let row = registry.beginning(path, upstream, progress);
        let mut watched = Watched { _row: row, end: None, thread: None };
        if bar && stderr().is_terminal() {
            let (end, ended) = channel();
            let (name, progress) =
                (path.file_name().map(|name| name.to_string_lossy().into_owned()), Arc::clone(progress));
            let show = move || {
                let _ = guarded(|| {
                    show(name.unwrap_or_default(), &progress, &ended);
                    Ok(())
                });
            };
            // Without the thread there is no bar, and that is all.
            watched.thread = spawn("litestream-bar", show).ok();
            watched.end = Some(end);
        }
        watched
    }
}

impl Drop for Watched<'_> {
    /// The bar is gone before whoever called writes to the terminal again.
    fn drop(&mut self) {
        self.end.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn show(name: String, progress: &Progress, ended: &Receiver<()>) {
    if ended.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout) {
        return;
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style);
    }
    bar.set_message(name);
    loop {
        if let Some(headway) = progress.headway() {
            bar.set_length(headway.due);
            bar.set_position(headway.done.min(headway.due));
        }
        if ended.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
            return bar.finish_and_clear();
        }
    }
}
