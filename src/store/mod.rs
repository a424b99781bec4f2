//! Layer 3: the WAL and its index, the pages behind them, and the sidecar folder.

mod log_reader;
mod lookup;
mod sidecar;
mod walindex;
mod watch;
mod writer;

pub use log_reader::{LogFile, LoggedFrame};
pub use lookup::read_page;
pub use sidecar::{Sidecar, SidecarLock};
pub use walindex::{State, glance, page_of, state, valid_state};
pub use watch::Watch;
pub use writer::{Appended, WalWriter, restart};
