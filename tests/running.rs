//! `litestream_run()`: a `sqlite3` command that is a whole primary, or a whole replica, until it is asked to end.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::*;

/// `sqlite3` with the library and some SQL, then kept running. What it says comes in the end: a shell holds it back when its output is
/// no terminal.
struct Daemon(Child);

impl Daemon {
    fn start(database: &Path, sql: &str) -> Daemon {
        let mut command = Command::new("sqlite3");
        command.arg("-batch").arg(database).arg(format!(".load '{}'", library().display())).arg(sql);
        command.arg("SELECT litestream_run()").stdin(Stdio::null()).stdout(Stdio::piped());
        Daemon(command.spawn().unwrap())
    }

    /// Ends it by a signal (`TERM`); it must wait for one by then. Gives what it said before.
    fn end(mut self, signal: &str) -> String {
        send_signal(self.0.id(), signal);
        let status = finish(&mut self.0);
        assert!(status.success(), "{status}");
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        said.strip_suffix(&format!("SIG{signal}\n")).unwrap_or_else(|| panic!("it said {said}")).to_string()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn one_command_is_a_primary_and_another_one_a_replica_until_a_signal_ends_them() {
    for signal in ["TERM", "INT"] {
        let temp = Temp::new();
        let (path, copied) = (temp.path("primary.db"), temp.path("replica.db"));
        stock(&path, NEW);
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let url = format!("http://{address}/primary.db");
        let primary = Daemon::start(&path, &format!("SELECT litestream_serve('{address}')"));
        until_it_waits(primary.0.id());
        let replica = Daemon::start(&copied, &format!("SELECT litestream_follow('{url}')"));
        until_it_waits(replica.0.id());
        stock(&path, "INSERT INTO t(x) VALUES ('two')");
        until("the row arrives", || match stock(&copied, "SELECT group_concat(x) FROM t").as_str() {
            "one,two" => Ok(()),
            other => Err(other.to_string()),
        });
        let position = replica.end(signal);
        assert_eq!(position.len(), 51, "{position}");
        assert_eq!(primary.end(signal), format!("{url}\n"));
        // They ended in order: what they knew is kept, and nothing is locked.
        assert!(temp.path("primary.db-litestream/pages").exists());
        assert!(temp.path("replica.db-litestream/pages").exists());
        let mut again = Shell::open(&path);
        assert_eq!(again.ask(&format!("SELECT litestream_serve('{address}')")), url);
    }
}

#[test]
fn running_with_nothing_to_run_is_an_error() {
    let mut shell = Shell::open(":memory:".as_ref());
    assert!(shell.refused("SELECT litestream_run()").contains("nothing is served or followed"));
}

#[test]
fn an_address_for_metrics_alone_is_something_to_run_for() {
    let mut shell = Shell::open(":memory:".as_ref());
    shell.run("SELECT litestream_serve('127.0.0.1:0', '{\"metrics_only\": true}')");
    shell.send("SELECT litestream_run()");
    until_it_waits(shell.pid());
    send_signal(shell.pid(), "TERM");
    assert_eq!(shell.receive().unwrap(), "SIGTERM");
}

#[test]
fn what_the_host_does_with_signals_is_as_before_when_the_run_is_over() {
    let temp = Temp::new();
    let (mut shell, _) = serving(&temp.path("primary.db"));
    let before = caught(shell.pid());
    for _ in 0..3 {
        shell.send("SELECT litestream_run()");
        until_it_waits(shell.pid());
        send_signal(shell.pid(), "TERM");
        assert_eq!(shell.receive().unwrap(), "SIGTERM");
        assert_eq!(caught(shell.pid()), before);
    }
    shell.run("SELECT litestream_stop()");
    shell.refused("SELECT litestream_run()");
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units_in_the_documentation() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples");
    let units = || std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let units: Vec<_> = units().filter(|path| path.extension().is_some_and(|e| e == "service")).collect();
    assert_eq!(units.len(), 2);
    let Ok(verified) = Command::new("systemd-analyze").arg("verify").args(&units).output() else {
        println!("left out: there is no systemd here");
        return;
    };
    let said = String::from_utf8_lossy(&verified.stderr);
    let about_ours: Vec<_> = said.lines().filter(|line| line.contains("litestream")).collect();
    assert!(verified.status.success() && about_ours.is_empty(), "{said}");
}
