//! Live read replication for SQLite over HTTP, as a loadable extension.
pub mod base;
pub mod format;
pub mod sqlite;
pub mod primary;
pub mod store;
