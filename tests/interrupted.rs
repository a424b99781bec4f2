//! A process that is killed at any moment, and a sidecar that cannot be written at any moment: each system call on the files
//! of a database and of its sidecar in turn is the one before which the process dies, or one that fails. Nothing is lost, what is
//! found afterwards is never trusted beyond what it is, and the next run goes on.
//!
//! `FAULTS=all` looks at every call where else some are passed over (`make faults`).
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::TcpListener;
use std::path::Path;

use support::*;

/// What is tried with each call.
fn ways() -> Vec<(How, About)> {
    let failing = [How::Fails("EIO"), How::Fails("ENOSPC"), How::KeepsFailing("EROFS")];
    let failing = failing.into_iter().map(|how| (how, About::Sidecar));
    failing.chain([(How::Killed, About::Everything)]).collect()
}

/// Steps that the number of the call takes: of frequent calls all of the first, then fewer and fewer.
fn next(nth: usize) -> usize {
    if std::env::var_os("FAULTS").is_some() { nth + 1 } else { nth + 1 + nth / 2 }
}

/// Does `case` with each interruption in turn; it says whether that came about.
fn each_interruption(mut case: impl FnMut(Interruption, &str) -> bool) {
    if !can_trace() {
        println!("left out: strace is missing, or may not trace here");
        return;
    }
    let mut cases = 0;
    for (how, about) in ways() {
        for call in CALLS {
            let mut nth = 1;
            loop {
                let what = format!("{call} number {nth}: {how:?}");
                // Shown when the case fails.
                println!("{what}");
                if !case(Interruption { call, nth, how, about }, &what) {
                    break;
                }
                cases += 1;
                nth = next(nth);
            }
        }
    }
    println!("{cases} interruptions");
    assert!(cases > 20, "only {cases} interruptions came about");
}

/// Fails unless the replica at `path` is in a state of `origin`, or is none yet, not older than its sidecar says, and catches up.
fn goes_on(origin: &Origin, path: &Path, what: &str) {
    if plain(path).ask::<i64>("SELECT count(*) FROM sqlite_schema") > 0 {
        let state = origin.state_of(path, what);
        let claimed = std::fs::read_to_string(with_suffix(path, "-litestream").join("position"));
        let claimed = claimed.map_or(0, |position| origin.at(position.trim()));
        assert!(state >= claimed, "{what}: in state {state}, and the sidecar says {claimed}");
    }
    let replica = loaded(path);
    let pulled = replica.query_row(&origin.pull("{}"), [], |row| row.get::<_, String>(0));
    pulled.unwrap_or_else(|e| panic!("{what}: the replica does not catch up: {e}"));
    assert_eq!(origin.state_of(path, what), origin.newest(), "{what}: after catching up");
    assert_eq!(stock(path, "PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0", "{what}: the locks");
}

/// What a run that is not killed says is true.
fn replica_survives(origin: &Origin, base: Option<&Path>, script: &str) {
    let temp = Temp::new();
    let path = temp.path("replica.db");
    each_interruption(|interruption, what| {
        remove(&path);
        if let Some(base) = base {
            copy_all(base, &path);
        }
        let ended = run_interrupted(&path, script, interruption);
        assert!(!ended.errors.contains("panic") && !ended.errors.contains("internal"), "{what}: {ended:?}");
        for position in ended.output.lines().filter(|line| line.len() == 50 && line.contains('/')) {
            assert!(origin.state_of(&path, what) >= origin.at(position), "{what}: {position} was reached");
        }
        goes_on(origin, &path, what);
        ended.interrupted
    });
}

#[test]
fn a_new_replica_survives_any_interruption() {
    let origin = Origin::new(4096);
    let script = format!("{};\nSELECT litestream_position();", origin.pull("{}"));
    replica_survives(&origin, None, &script);
}

#[test]
fn catching_up_following_and_stopping_survive_any_interruption() {
    let (origin, temp) = (Origin::new(4096), Temp::new());
    let base = temp.path("base.db");
    origin.replicate(&base);
    let position = origin.step(20);
    let script = format!(
        "{};\nSELECT litestream_wait('{position}', 1000);\nSELECT litestream_stop();\nSELECT litestream_position();",
        origin.follow("{\"checkpoint_frames\": 4}")
    );
    replica_survives(&origin, Some(&base), &script);
}

#[test]
fn being_compared_by_checksum_survives_any_interruption() {
    let (origin, temp) = (Origin::new(4096), Temp::new());
    let base = temp.path("base.db");
    origin.replicate(&base);
    std::fs::remove_file(with_suffix(&base, "-litestream").join("position")).unwrap();
    origin.step(20);
    let script = format!("{};\nSELECT litestream_position();", origin.pull("{}"));
    replica_survives(&origin, Some(&base), &script);
}

#[test]
fn a_promotion_survives_any_interruption() {
    let (origin, temp) = (Origin::new(4096), Temp::new());
    let base = temp.path("base.db");
    origin.replicate(&base);
    let path = temp.path("replica.db");
    each_interruption(|interruption, what| {
        remove(&path);
        copy_all(&base, &path);
        let ended = run_interrupted(&path, "SELECT 'promoted ' || litestream_promote();", interruption);
        let promoted = ended.output.contains("promoted");
        assert_eq!(origin.state_of(&path, what), 0, "{what}: {ended:?}");
        let upstream = with_suffix(&path, "-litestream").join("upstream");
        let is_replica = upstream.exists();
        assert!(!(promoted && (is_replica || is_marked(&path))), "{what}: promoted by half: {ended:?}");
        assert!(is_replica || !is_marked(&path), "{what}: read-only, and nobody's replica: {ended:?}");
        if is_replica {
            // Where it was may be forgotten by then.
            loaded(&path).ask::<Option<String>>("SELECT litestream_promote()");
        }
        assert!(!is_marked(&path) && !upstream.exists(), "{what}");
        stock(&path, &bank::step(1, 1));
        ended.interrupted
    });
}

/// A primary that was served before, with a replica of it that is up to date; nobody has either open.
struct Line {
    temp: Temp,
    /// Where it is served each time, so that the replica knows its upstream again.
    port: u16,
}

impl Line {
    fn new() -> Line {
        let temp = Temp::new();
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap().port();
        let line = Line { temp, port };
        plain(&line.primary()).run(&format!("PRAGMA journal_mode = wal; {}", bank::create(60, 4096)));
        line.serve_and_pull("a new line");
        line
    }

    fn primary(&self) -> std::path::PathBuf {
        self.temp.path("primary.db")
    }

    fn replica(&self) -> std::path::PathBuf {
        self.temp.path("replica.db")
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/primary.db", self.port)
    }

    fn serve(&self) -> String {
        format!("SELECT litestream_serve('127.0.0.1:{}')", self.port)
    }

    /// Serves with a process that nothing interrupts, and has the replica catch up.
    fn serve_and_pull(&self, what: &str) {
        let mut primary = Shell::open(&self.primary());
        primary.run(&self.serve());
        let replica = loaded(&self.replica());
        let pull = format!("SELECT litestream_pull('{}')", self.url());
        let pulled = replica.query_row(&pull, [], |row| row.get::<_, String>(0));
        let position = pulled.unwrap_or_else(|e| panic!("{what}: the replica does not catch up: {e}"));
        assert_eq!(position, primary.ask("SELECT litestream_position()"), "{what}");
        let differing = differing_pages(&self.primary(), &self.replica());
        assert!(differing.is_empty(), "{what}: both are at {position} and differ in pages {differing:?}");
        primary.run("SELECT litestream_stop()");
    }
}

/// A primary that serves, is written to, has its replica catch up in between, and stops.
fn primary_survives(prepare: impl Fn(&Line)) {
    let base = Line::new();
    prepare(&base);
    let line = Line { temp: Temp::new(), port: base.port };
    let pull = format!(
        ".shell sqlite3 -batch '{}' -cmd \".load '{}'\" \"SELECT litestream_pull('{}')\"",
        line.replica().display(),
        library().display(),
        line.url()
    );
    let position = "SELECT 'at ' || litestream_position();";
    let script = format!(
        "{};\n{position}\n{};\n{position}\n{pull}\n{};\n{position}\n{pull}\nPRAGMA wal_checkpoint(TRUNCATE);\n{};\n{position}\n\
         SELECT 'stopped ' || litestream_stop();",
        line.serve(),
        bank::step(1, 5),
        bank::step(2, 5),
        bank::step(3, 5)
    );
    each_interruption(|interruption, what| {
        for path in [line.primary(), line.replica()] {
            remove(&path);
        }
        copy_all(&base.primary(), &line.primary());
        copy_all(&base.replica(), &line.replica());
        let ended = run_interrupted(&line.primary(), &script, interruption);
        assert!(!ended.errors.contains("panic") && !ended.errors.contains("internal"), "{what}: {ended:?}");
        // Each commit that was said to be made is there.
        let told = ended.output.lines().filter(|line| line.starts_with("at ")).count().saturating_sub(1);
        let steps = plain(&line.primary()).ask::<u32>("SELECT n FROM counter") as usize;
        assert!(steps >= told, "{what}: {steps} commits are there, after {ended:?}");
        line.serve_and_pull(what);
        ended.interrupted
    });
}

#[test]
fn a_primary_survives_any_interruption() {
    primary_survives(|_| ());
}

#[test]
fn a_primary_that_serves_for_the_first_time_survives_any_interruption() {
    primary_survives(|line| std::fs::remove_dir_all(with_suffix(&line.primary(), "-litestream")).unwrap());
}

#[test]
fn a_primary_that_becomes_a_replica_survives_any_interruption() {
    let (line, origin) = (Line::new(), Origin::new(4096));
    let temp = Temp::new();
    let path = temp.path("replica.db");
    let before = pages(&line.primary());
    each_interruption(|interruption, what| {
        remove(&path);
        copy_all(&line.primary(), &path);
        let script = format!("{};", origin.pull("{\"overwrite\": true}"));
        let ended = run_interrupted(&path, &script, interruption);
        assert_eq!(plain(&path).ask::<String>("PRAGMA integrity_check"), "ok", "{what}: {ended:?}");
        if mask_mark(pages(&path)) != before {
            origin.state_of(&path, what);
        }
        let replica = loaded(&path);
        replica.ask::<String>(&origin.pull("{\"overwrite\": true}"));
        assert_eq!(origin.state_of(&path, what), origin.newest(), "{what}: in the end");
        ended.interrupted
    });
}
