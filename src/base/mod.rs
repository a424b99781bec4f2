//! Layer 0: the words of the field as types, and the bounds everything keeps to.
//!
//! Nothing here does I/O, and nothing here can fail but by saying so.

mod clock;
mod error;
mod headway;
mod page;
mod position;

pub mod limits;

pub use clock::{unix_ms, utc};
pub use error::{Error, Kind, Past, Result};
pub use headway::Headway;
pub use page::{FrameNo, PageSize, Pgno};
pub use position::{Generation, Lsn, Position};
