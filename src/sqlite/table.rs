//! Eponymous virtual tables, registered through `sqlite-loadable` (<https://www.sqlite.org/vtab.html#epovtab>).

use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

use sqlite_loadable::table::{BestIndexError, ConstraintOperator, IndexInfo, VTab, VTabArguments, VTabCursor};
use sqlite_loadable::{Error as LoadableError, Result as LoadableResult, define_table_function};
use sqlite3ext_sys::{sqlite3, sqlite3_context, sqlite3_value, sqlite3_vtab, sqlite3_vtab_cursor};

use super::api::call;
use super::{Host, Output, Value, guarded};
use crate::base::{Error, Result};

const VTAB_DIRECTONLY: c_int = 3;

/// The columns of one row.
pub type Cells = Vec<Output>;

/// A table that is filled when it is read.
pub trait Table: 'static {
    /// Its name in SQL.
    const NAME: &'static str;
    /// The columns in words of `CREATE TABLE`, without the parentheses.
    const COLUMNS: &'static str;
    /// Number of the hidden column that is the table's argument, if it takes one.
    const ARGUMENT: Option<c_int>;

    /// The rows for `argument` (NULL when the table takes none), for whoever reads through `host`.
    fn rows(host: Host, argument: Value<'_>) -> Result<Box<dyn Iterator<Item = Result<Cells>>>>;
}

/// Registers a table on the connection `host`. `session` is dropped when the connection closes.
pub fn define_table<T: Table>(host: Host, session: Arc<dyn Send + Sync>) -> Result<()> {
    define_table_function::<Instance<T>>(host.raw(), T::NAME, Some(session))
        .map_err(|_| Error::usage(format!("litestream: registering the table {} failed", T::NAME)))
}

#[repr(C)]
struct Instance<T> {
    /// SQLite's part; first, as the interface demands.
    base: sqlite3_vtab,
    /// The connection that it is a table of, which outlives it.
    host: Host,
    table: PhantomData<T>,
}

/// Whether the argument was given.
const WITH_ARGUMENT: c_int = 1;

impl<'v, T: Table> VTab<'v> for Instance<T> {
    type Aux = Arc<dyn Send + Sync>;
    type Cursor = Cursor<T>;

    fn connect(
        db: *mut sqlite3,
        _session: Option<&Self::Aux>,
        _arguments: VTabArguments,
    ) -> LoadableResult<(String, Self)> {
        // SAFETY: called from xConnect with its connection, as sqlite3_vtab_config demands; this option takes no argument.
        unsafe { call!(vtab_config(db, VTAB_DIRECTONLY)) };
        let base = sqlite3_vtab { pModule: ptr::null(), nRef: 0, zErrMsg: ptr::null_mut() };
        Ok((format!("CREATE TABLE x({})", T::COLUMNS), Instance { base, host: Host::new(db), table: PhantomData }))
    }

    fn best_index(&self, mut info: IndexInfo) -> std::result::Result<(), BestIndexError> {
        info.set_estimated_cost(1000.0);
        let Some(column) = T::ARGUMENT else { return Ok(()) };
        for mut constraint in info.constraints() {
            if constraint.column_idx() == column && constraint.op() == Some(ConstraintOperator::EQ) {
                if !constraint.usable() {
                    return Err(BestIndexError::Constraint);
                }
                constraint.set_argv_index(1);
                constraint.set_omit(true);
                info.set_idxnum(WITH_ARGUMENT);
                break;
            }
        }
        Ok(())
    }

    fn open(&'v mut self) -> LoadableResult<Cursor<T>> {
        Ok(Cursor {
            base: sqlite3_vtab_cursor { pVtab: ptr::null_mut() },
            host: self.host,
            rows: None,
            row: None,
            number: 0,
            table: PhantomData,
        })
    }
}

/// A scan over the rows.
#[repr(C)]
pub struct Cursor<T> {
    /// SQLite's part; first, as the interface demands.
    base: sqlite3_vtab_cursor,
    host: Host,
    rows: Option<Box<dyn Iterator<Item = Result<Cells>>>>,
    row: Option<Cells>,
    number: i64,
    table: PhantomData<T>,
}

impl<T: Table> Cursor<T> {
    fn advance(&mut self) -> Result<()> {
        self.row = guarded(|| self.rows.as_mut().and_then(Iterator::next).transpose())?;
        self.number += 1;
        Ok(())
    }
}

impl<T: Table> VTabCursor for Cursor<T> {
    fn filter(&mut self, plan: c_int, _: Option<&str>, values: &[*mut sqlite3_value]) -> LoadableResult<()> {
        let argument = match values.first() {
            // SAFETY: SQLite keeps the arguments alive and protected for the time of xFilter.
            Some(raw) if plan == WITH_ARGUMENT => unsafe { Value::read(*raw) },
            _ => Value::Null,
        };
        self.number = 0;
        self.rows = Some(guarded(|| T::rows(self.host, argument)).map_err(told)?);
        self.advance().map_err(told)
    }

    fn next(&mut self) -> LoadableResult<()> {
        self.advance().map_err(told)
    }

    fn eof(&self) -> bool {
        self.row.is_none()
    }

    fn column(&self, context: *mut sqlite3_context, i: c_int) -> LoadableResult<()> {
        let cells = self.row.as_deref().unwrap_or_default();
        usize::try_from(i).ok().and_then(|i| cells.get(i)).unwrap_or(&Output::Null).give(context)
    }

    fn rowid(&self) -> LoadableResult<i64> {
        Ok(self.number)
    }
}

fn told(error: Error) -> LoadableError {
    LoadableError::new_message(error.to_string())
}
