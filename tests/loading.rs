//! What loading the library does to a process, and what it does not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::ffi::CString;
use std::path::Path;

use rusqlite::Connection;
use support::*;

/// The functions, each with the numbers of arguments it takes, and whether only SQL typed by the user may call it.
const FUNCTIONS: &str = "\
litestream_apply_frame|3|1
litestream_apply_wal|1|1
litestream_checksum|0|1
litestream_config|0|1
litestream_config|1|1
litestream_follow|0|1
litestream_follow|1|1
litestream_follow|2|1
litestream_lag|0|1
litestream_position|0|1
litestream_promote|0|1
litestream_pull|0|1
litestream_pull|1|1
litestream_pull|2|1
litestream_run|0|1
litestream_serve|0|1
litestream_serve|1|1
litestream_serve|2|1
litestream_snapshot|1|1
litestream_snapshot|2|1
litestream_stop|0|1
litestream_verify|0|1
litestream_verify|1|1
litestream_verify|2|1
litestream_version|0|1
litestream_wait|1|1
litestream_wait|2|1";

const TABLES: &str = "litestream_config\nlitestream_replicas\nlitestream_status\nlitestream_wal";

/// `SQLITE_DIRECTONLY`.
const DIRECT_ONLY: u32 = 0x8_0000;

fn functions() -> String {
    format!(
        "SELECT name, narg, (flags & {DIRECT_ONLY}) <> 0 FROM pragma_function_list WHERE name NOT IN (SELECT name FROM before_functions)
         ORDER BY 1, 2"
    )
}

#[test]
fn loading_registers_exactly_these_functions_and_tables() {
    let mut shell = Shell::stock(":memory:".as_ref());
    shell.run("CREATE TEMP TABLE before_functions AS SELECT name FROM pragma_function_list");
    shell.run("CREATE TEMP TABLE before_modules AS SELECT name FROM pragma_module_list");
    shell.run(&format!(".load '{}'", library().display()));
    assert_eq!(shell.ask(&functions()), FUNCTIONS);
    let modules = "SELECT name FROM pragma_module_list WHERE name NOT IN (SELECT name FROM before_modules) ORDER BY 1";
    assert_eq!(shell.ask(modules), TABLES);
    assert_eq!(shell.ask("SELECT count(*) FROM sqlite_schema"), "0", "nothing in the user's schema");
}

#[test]
fn the_tables_have_the_columns_that_the_manual_names() {
    let mut shell = Shell::open(":memory:".as_ref());
    let mut columns = |table: &str| {
        shell.ask(&format!("SELECT group_concat(name, ' ') FROM pragma_table_xinfo('{table}') WHERE hidden = 0"))
    };
    assert_eq!(
        columns("litestream_status"),
        "database role state reason url position lag replicas commits pages bytes reconnects heals healed \
         last_error last_error_at progress seconds_left db_bytes wal_bytes sqlite_version wal_reset_bug"
    );
    assert_eq!(
        columns("litestream_replicas"),
        "database client version state position lag commits pages bytes progress seconds_left seconds"
    );
    assert_eq!(columns("litestream_config"), "name value source");
    assert_eq!(columns("litestream_wal"), "frame pgno commit salt1 salt2 checksum1 checksum2 valid page");
}

#[test]
fn these_tests_run_a_current_sqlite_and_the_one_of_the_system() {
    assert!(rusqlite::version_number() >= 3_050_000, "rusqlite carries {}", rusqlite::version());
    let connection = loaded(":memory:".as_ref());
    assert_eq!(connection.ask::<String>("SELECT sqlite_version()"), rusqlite::version());
    let system = Shell::stock(":memory:".as_ref()).ask("SELECT sqlite_version()");
    assert_ne!(system, rusqlite::version(), "two versions of SQLite take part");
}

#[test]
fn the_version_is_that_of_the_crate() {
    assert_eq!(Shell::open(":memory:".as_ref()).ask("SELECT litestream_version()"), env!("CARGO_PKG_VERSION"));
    assert_eq!(loaded(":memory:".as_ref()).ask::<String>("SELECT litestream_version()"), env!("CARGO_PKG_VERSION"));
}

#[test]
fn loading_twice_is_no_error() {
    let mut shell = Shell::open(":memory:".as_ref());
    shell.run(&format!(".load '{}'", library().display()));
    assert_eq!(shell.ask("SELECT litestream_version()"), env!("CARGO_PKG_VERSION"));
    assert_eq!(shell.ask("SELECT count(*) FROM pragma_function_list WHERE name = 'litestream_version'"), "1");
}

/// How many rows of `litestream_status` are about files in `temp`; it has rows for the whole process, and so for
/// the tests beside this one.
fn rows_about(temp: &Temp, connection: &Connection) -> i64 {
    let folder = temp.path("");
    connection.ask(&format!("SELECT count(*) FROM litestream_status WHERE database LIKE '{}%'", folder.display()))
}

#[test]
fn many_connections_in_many_threads_load_it_and_close_again() {
    let temp = Temp::new();
    let database = temp.path("app.db");
    plain(&database).run("PRAGMA journal_mode = wal; CREATE TABLE t(x)");
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| {
                for _ in 0..12 {
                    let connection = loaded(&database);
                    assert_eq!(connection.ask::<String>("SELECT litestream_version()"), env!("CARGO_PKG_VERSION"));
                    assert_eq!(connection.ask::<Option<String>>("SELECT litestream_position()"), None);
                }
            });
        }
    });
    assert_eq!(rows_about(&temp, &loaded(&database)), 0);
}

#[test]
fn many_threads_serve_follow_and_stop_at_once() {
    let temp = Temp::new();
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let temp = &temp;
            threads.spawn(move || {
                for round in 0..8 {
                    let primary = loaded(&temp.path(&format!("primary-{thread}.db")));
                    primary.run("PRAGMA journal_mode = wal; CREATE TABLE IF NOT EXISTS t(x)");
                    primary.run(&format!("INSERT INTO t VALUES ({round})"));
                    let url: String = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
                    let replica = loaded(&temp.path(&format!("replica-{thread}.db")));
                    replica.ask::<String>(&format!("SELECT litestream_follow('{url}', '{{\"overwrite\": true}}')"));
                    assert_eq!(replica.ask::<i64>("SELECT max(x) FROM t"), round);
                    primary.ask::<i64>("SELECT count(*) FROM litestream_status JOIN litestream_replicas");
                    drop(replica);
                    assert_eq!(primary.ask::<String>("SELECT litestream_stop()"), format!("served {url}"));
                    let replica = loaded(&temp.path(&format!("replica-{thread}.db")));
                    assert_eq!(replica.ask::<String>("SELECT litestream_stop()"), format!("followed {url}"));
                }
            });
        }
    });
}

#[test]
fn the_server_outlives_the_connection_that_started_it() {
    let temp = Temp::new();
    let database = temp.path("app.db");
    let first = loaded(&database);
    first.run("PRAGMA journal_mode = wal; CREATE TABLE t(x)");
    let url: String = first.ask("SELECT litestream_serve('127.0.0.1:0')");
    drop(first);
    assert_eq!(get(&url, "/healthz", &[]).text(), "ok\n");
    let second = loaded(&database);
    assert_eq!(second.ask::<String>("SELECT litestream_stop()"), format!("served {url}"));
}

#[test]
fn a_schema_cannot_call_any_function() {
    let temp = Temp::new();
    let connection = loaded(&temp.path("app.db"));
    connection.run("PRAGMA journal_mode = wal; CREATE TABLE t(x)");
    let calls = [
        "litestream_config()",
        "litestream_config('{}')",
        "litestream_serve()",
        "litestream_pull()",
        "litestream_follow()",
        "litestream_serve('127.0.0.1:0')",
        "litestream_serve('127.0.0.1:0', '{}')",
        "litestream_pull('http://127.0.0.1:1/app.db')",
        "litestream_pull('http://127.0.0.1:1/app.db', '{}')",
        "litestream_follow('http://127.0.0.1:1/app.db')",
        "litestream_follow('http://127.0.0.1:1/app.db', '{}')",
        "litestream_snapshot('copy.db')",
        "litestream_snapshot('copy.db', '{}')",
        "litestream_stop()",
        "litestream_position()",
        "litestream_wait('x')",
        "litestream_wait('x', 1)",
        "litestream_lag()",
        "litestream_apply_frame(1, 1, zeroblob(4096))",
        "litestream_apply_wal(x'00')",
        "litestream_checksum()",
        "litestream_verify()",
        "litestream_verify('http://127.0.0.1:1/app.db')",
        "litestream_verify('http://127.0.0.1:1/app.db', '{}')",
        "litestream_promote()",
        "litestream_run()",
        "litestream_version()",
    ];
    assert_eq!(calls.len(), FUNCTIONS.lines().count(), "every function, with each number of arguments");
    for call in calls {
        let name = call.split('(').next().unwrap();
        connection.run(&format!("CREATE VIEW hostile AS SELECT {call}"));
        let error = connection.refused("SELECT * FROM hostile");
        assert!(error.contains(&format!("unsafe use of {name}()")), "{call} in a view: {error}");
        connection.run("DROP VIEW hostile");
        connection.run(&format!("CREATE TRIGGER hostile AFTER INSERT ON t BEGIN SELECT {call}; END"));
        let error = connection.refused("INSERT INTO t VALUES (1) RETURNING x");
        assert!(error.contains(&format!("unsafe use of {name}()")), "{call} in a trigger: {error}");
        connection.run("DROP TRIGGER hostile");
    }
    assert_eq!(rows_about(&temp, &connection), 0);
}

#[test]
fn a_schema_cannot_read_the_tables_or_a_file_through_one() {
    let temp = Temp::new();
    let connection = loaded(&temp.path("app.db"));
    connection.run("PRAGMA journal_mode = wal; CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    let wal = format!("litestream_wal('{}')", temp.path("app.db-wal").display());
    for (table, name) in [
        ("litestream_config", "litestream_config"),
        ("litestream_status", "litestream_status"),
        ("litestream_replicas", "litestream_replicas"),
        (&wal, "litestream_wal"),
    ] {
        connection.ask::<i64>(&format!("SELECT count(*) FROM {table}"));
        connection.run(&format!("CREATE VIEW hostile AS SELECT count(*) FROM {table}"));
        let error = connection.refused("SELECT * FROM hostile");
        assert!(error.contains(&format!("unsafe use of virtual table \"{name}\"")), "{table} in a view: {error}");
        connection.run("DROP VIEW hostile");
        connection
            .run(&format!("CREATE TRIGGER hostile AFTER INSERT ON t BEGIN SELECT (SELECT count(*) FROM {name}); END"));
        let error = connection.refused("INSERT INTO t VALUES (1) RETURNING x");
        assert!(error.contains("unsafe use of virtual table"), "{table} in a trigger: {error}");
        connection.run("DROP TRIGGER hostile");
    }
}

/// Serves one database and follows another in this process, then returns with all of that running.
fn busy(folder: &Path) -> (Connection, Connection) {
    let primary = loaded(&folder.join("primary.db"));
    primary.run("PRAGMA journal_mode = wal; CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    let url: String = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
    let replica = loaded(&folder.join("replica.db"));
    replica.ask::<String>(&format!("SELECT litestream_follow('{url}')"));
    assert_eq!(replica.ask::<i64>("SELECT x FROM t"), 1);
    (primary, replica)
}

#[test]
fn a_process_ends_cleanly_with_everything_running() {
    if let Some(folder) = started_again() {
        // As a process ends that calls exit(3): nothing is closed, and other threads still run.
        std::mem::forget(busy(&folder));
        std::process::exit(7);
    }
    for _ in 0..10 {
        let status = again("a_process_ends_cleanly_with_everything_running", &Temp::new());
        assert_eq!(status.code(), Some(7), "a process that called exit(7)");
    }
}

#[test]
fn a_shell_ends_cleanly_with_everything_running_and_leaves_no_lock() {
    let temp = Temp::new();
    let mut primary = Shell::open(&temp.path("primary.db"));
    primary.run("PRAGMA journal_mode = wal; CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
    let address = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap().to_string();
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_follow('{url}')"));
    assert!(replica.quit().success());
    assert!(primary.quit().success());
    let mut primary = Shell::open(&temp.path("primary.db"));
    assert_eq!(primary.ask(&format!("SELECT litestream_serve('{address}')")), url, "the same address serves again");
    primary.run("INSERT INTO t VALUES (2)");
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_follow('{url}')"));
    assert_eq!(replica.ask("SELECT count(*) FROM t"), "2");
}

#[test]
fn a_forked_process_is_told_so_instead_of_hanging() {
    if let Some(folder) = started_again() {
        let (primary, replica) = busy(&folder);
        let status = forked(|| {
            // What was opened before the fork belongs to the parent.
            for (inherited, call) in [
                (&primary, "litestream_stop()"),
                (&primary, "litestream_serve('127.0.0.1:0')"),
                (&replica, "litestream_pull('http://127.0.0.1:1/app.db')"),
                (&replica, "litestream_follow('http://127.0.0.1:1/app.db')"),
                (&replica, "litestream_position()"),
            ] {
                let error = inherited.refused(&format!("SELECT {call}"));
                assert!(error.contains("fork"), "{call}: {error}");
            }
            // What is opened here works here.
            let own = loaded(&folder.join("own.db"));
            own.run("PRAGMA journal_mode = wal; CREATE TABLE t(x)");
            let url: String = own.ask("SELECT litestream_serve('127.0.0.1:0')");
            assert_eq!(get(&url, "/healthz", &[]).text(), "ok\n");
        });
        assert_eq!(status, 0, "the forked process");
        primary.run("INSERT INTO t VALUES (2)");
        let position: String = primary.ask("SELECT litestream_position()");
        assert_eq!(replica.ask::<i64>(&format!("SELECT litestream_wait('{position}', 30000)")), 1);
        std::process::exit(7);
    }
    let status = again("a_forked_process_is_told_so_instead_of_hanging", &Temp::new());
    assert_eq!(status.code(), Some(7), "the process that forks");
}

#[test]
fn a_single_threaded_sqlite_gets_no_background_work() {
    if let Some(folder) = started_again() {
        let connection = single_threaded(&folder.join("app.db"));
        load(&connection);
        connection.run("PRAGMA journal_mode = wal; CREATE TABLE t(x)");
        assert_eq!(connection.ask::<String>("SELECT litestream_version()"), env!("CARGO_PKG_VERSION"));
        for call in ["litestream_serve('127.0.0.1:0')", "litestream_follow('http://127.0.0.1:1/app.db')"] {
            let error = connection.refused(&format!("SELECT {call}"));
            assert!(error.contains("thread"), "{call}: {error}");
        }
        std::process::exit(7);
    }
    let status = again("a_single_threaded_sqlite_gets_no_background_work", &Temp::new());
    assert_eq!(status.code(), Some(7), "the process with a single-threaded SQLite");
}

/// A connection of an SQLite that was told to use no mutexes. rusqlite would not open one.
#[allow(unsafe_code)]
fn single_threaded(database: &Path) -> Connection {
    use rusqlite::ffi;
    let name = CString::new(database.to_str().unwrap()).unwrap();
    let mut db = std::ptr::null_mut();
    // SAFETY: SQLite is not in use yet, and this process uses it from one thread only; the handle is a new connection.
    unsafe {
        assert_eq!(ffi::sqlite3_config(ffi::SQLITE_CONFIG_SINGLETHREAD), ffi::SQLITE_OK);
        assert_eq!(ffi::sqlite3_open(name.as_ptr(), &mut db), ffi::SQLITE_OK);
        Connection::from_handle(db).unwrap()
    }
}

#[test]
fn a_host_may_have_every_connection_load_it() {
    if let Some(folder) = started_again() {
        load_into_every_connection();
        let path = folder.join("app.db");
        std::fs::create_dir(with_suffix(&path, "-litestream")).unwrap();
        std::fs::write(with_suffix(&path, "-litestream").join("config.json"), "{\"addr\": \"127.0.0.1:0\"}").unwrap();
        let app = plain(&path);
        app.run("CREATE TABLE t(x); INSERT INTO t VALUES (1)");
        let url: String = app.ask("SELECT url FROM litestream_status");
        let copy = plain(&folder.join("copy.db"));
        copy.ask::<String>(&format!("SELECT litestream_follow('{url}')"));
        assert_eq!(plain(&folder.join("copy.db")).ask::<i64>("SELECT x FROM t"), 1);
        assert_eq!(app.ask::<i64>("SELECT count(*) FROM litestream_status"), 2, "one served, one followed");
        std::fs::write(folder.join("other.db"), "").unwrap();
        std::fs::create_dir(folder.join("other.db-litestream")).unwrap();
        std::fs::write(folder.join("other.db-litestream/config.json"), "{").unwrap();
        let error = Connection::open(folder.join("other.db")).unwrap_err().to_string();
        assert!(error.contains("config.json is not JSON"), "{error}");
        std::process::exit(7);
    }
    let status = again("a_host_may_have_every_connection_load_it", &Temp::new());
    assert_eq!(status.code(), Some(7), "a process that loads it into every connection");
}

type EntryPoint = unsafe extern "C" fn(
    *mut rusqlite::ffi::sqlite3,
    *mut *mut libc::c_char,
    *const rusqlite::ffi::sqlite3_api_routines,
) -> libc::c_int;

/// Gives SQLite the entry point for all connections that are opened from then on.
#[allow(unsafe_code)]
fn load_into_every_connection() {
    let path = CString::new(library().to_str().unwrap()).unwrap();
    // SAFETY: the library has an entry point of this name and of the type that SQLite calls.
    unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
        assert!(!handle.is_null());
        let entry = libc::dlsym(handle, c"sqlite3_litestream_init".as_ptr());
        assert!(!entry.is_null());
        let entry = std::mem::transmute::<*mut libc::c_void, EntryPoint>(entry);
        assert_eq!(rusqlite::ffi::sqlite3_auto_extension(Some(entry)), rusqlite::ffi::SQLITE_OK);
    }
}

/// A shell on a new primary, with what it writes to standard error in a file, started with `LITESTREAM_LOG` as given.
fn serving_with_log(temp: &Temp, level: Option<&str>) -> String {
    let log = temp.path("stderr");
    let file = std::fs::File::create(&log).unwrap();
    let mut shell = Shell::with(&temp.path("app.db"), |command| {
        command.stderr(file);
        if let Some(level) = level {
            command.env("LITESTREAM_LOG", level);
        }
    });
    shell.run("PRAGMA journal_mode = wal; CREATE TABLE t(x)");
    shell.run("SELECT litestream_serve('127.0.0.1:0')");
    shell.run("SELECT litestream_stop()");
    assert!(shell.quit().success());
    std::fs::read_to_string(log).unwrap()
}

#[test]
fn nothing_is_logged_to_standard_error_unless_asked_for() {
    assert_eq!(serving_with_log(&Temp::new(), None), "");
}

#[test]
fn litestream_log_sends_the_log_to_standard_error() {
    let log = serving_with_log(&Temp::new(), Some("info"));
    assert!(log.contains("app.db") && log.contains("127.0.0.1"), "the log does not tell what is served where: {log}");
}

#[test]
fn an_unknown_level_in_litestream_log_does_no_harm() {
    serving_with_log(&Temp::new(), Some("shout"));
}

#[test]
fn warnings_go_to_the_log_of_sqlite() {
    let temp = Temp::new();
    let log = temp.path("log");
    let upstream = Upstream::start(|_, reply| {
        let at = stream::At(1, 0, 32);
        reply.stream_v2(512);
        reply.send(&stream::encode(&stream::everything(at, &one_page_database(), 512)));
        reply.send(&stream::error(at, "the test says so").encode());
        reply.end();
    });
    let mut shell = Shell::open(&temp.path("replica.db"));
    shell.run(&format!(".log '{}'", log.display()));
    shell.run(&format!("SELECT litestream_follow('{}')", upstream.url()));
    // It is handed over by the next call, since SQLite's log is the host's, not our threads'.
    until("the log of SQLite tells why the stream ended", || {
        shell.run("SELECT litestream_version()");
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.contains("the test says so") { Ok(()) } else { Err(format!("log: {text}")) }
    });
}

fn one_page_database() -> Vec<u8> {
    let temp = Temp::new();
    let database = temp.path("one.db");
    stock(&database, "PRAGMA page_size = 512; PRAGMA journal_mode = wal; PRAGMA user_version = 7");
    file_bytes(&database)
}

#[test]
fn a_stderr_that_takes_nothing_ends_no_thread() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = Shell::with(&temp.path("replica.db"), |command| {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device that is full");
        command.env("LITESTREAM_LOG", "trace").stderr(full);
    });
    replica.run(&format!("SELECT litestream_follow('{url}')"));
    primary.run("SELECT litestream_stop()");
    until_gives(&mut replica, "SELECT state FROM litestream_status", "reconnecting");
    primary.run(&format!("SELECT litestream_serve('{}')", address(&url)));
    primary.run("INSERT INTO t(x) VALUES ('two')");
    until_gives(&mut replica, "SELECT count(*) FROM t", "2");
}
