//! Layer 3: the WAL and its index, the pages behind them, and the sidecar folder.

mod alone;
mod checksums;
mod copy;
mod coverage;
mod log_reader;
mod lookup;
mod nothing;
mod overwritten;
mod page_file;
mod sidecar;
mod walindex;
mod watch;
mod writer;
mod written;

pub use alone::Alone;
pub use checksums::Checksums;
pub use copy::{Copy, NewFile, check_target, copy};
pub use coverage::Coverage;
pub use log_reader::{LogFile, LoggedFrame};
pub use lookup::{page_size, pages, read_checksums, read_page, read_run};
pub use nothing::holds_nothing;
pub use overwritten::HeaderWatch;
pub use page_file::Entry;
pub use sidecar::{Sidecar, SidecarLock, beside, sync_folder_of};
pub use walindex::{State, newest_frame, page_of, state, valid_state};
pub use watch::Watch;
pub use writer::{Appended, Changes, WalWriter, restart};
pub use written::Written;
