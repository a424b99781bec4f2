//! Whether a database holds nothing.

use std::ffi::CStr;

use crate::base::Result;

/// What all of a database that holds nothing says of itself. A file may have a header and a page
/// all the same: `PRAGMA journal_mode=WAL` makes one, `VACUUM` does, and an empty transaction. A
/// number that an application has set there is its own: it is how it tells its databases from those
/// of others, and how far it has brought them.
const QUESTIONS: [&CStr; 3] =
    [c"SELECT count(*) FROM main.sqlite_master", c"PRAGMA main.user_version", c"PRAGMA main.application_id"];

/// Whether a database holds nothing, as a reader sees it: through the WAL. `ask` runs a query.
pub fn holds_nothing(ask: impl Fn(&CStr) -> Result<Option<String>>) -> Result<bool> {
    for sql in QUESTIONS {
        if ask(sql)?.as_deref() != Some("0") {
            return Ok(false);
        }
    }
    Ok(true)
}
