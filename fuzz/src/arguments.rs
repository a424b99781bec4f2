use std::cell::OnceCell;

use rusqlite::{Connection, params_from_iter};

use crate::database::loaded;
use crate::input::Input;

/// Calls of SQL functions that look at all of their arguments before they find that the database is in memory.
const CALLS: [&str; 8] = [
    "SELECT litestream_serve(?1)",
    "SELECT litestream_serve(?1, ?2)",
    "SELECT litestream_pull(?1, ?2)",
    "SELECT litestream_follow(?1, ?2)",
    "SELECT litestream_wait(?1)",
    "SELECT litestream_wait(?1, ?2)",
    "SELECT litestream_verify(?1)",
    "SELECT litestream_apply_frame(?1, ?2, ?2)",
];

thread_local! {
    static CONNECTION: OnceCell<Connection> = const { OnceCell::new() };
}

/// Calls a function with texts. It ends with an error in words, and the process is none the worse for it.
pub fn arguments(data: &[u8]) {
    let mut input = Input(data);
    let call = CALLS[usize::from(input.byte()) % CALLS.len()];
    let count = 1 + usize::from(call.contains("?2"));
    let Some(arguments) = (0..count).map(|_| input.text()).collect::<Option<Vec<_>>>() else { return };
    CONNECTION.with(|connection| {
        let connection = connection.get_or_init(|| loaded(":memory:".as_ref()));
        let mut call = connection.prepare_cached(call).expect("a statement");
        let answer = call.query_row(params_from_iter(&arguments), |row| row.get::<_, Option<String>>(0));
        let error = answer.expect_err("a database in memory is refused").to_string();
        let longest = arguments.iter().map(|argument| argument.len()).sum::<usize>() + 1000;
        assert!(error.len() > 10 && error.len() < longest, "{error}");
        assert!(!error.contains("internal"), "{error}");
    });
}
