//! What `GET /metrics` tells, in a form that Prometheus takes, and the addresses that tell and serve nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use support::*;

/// The names that are Litestream's, with their types. Some of them break rules that were made later.
const OF_LITESTREAM: [(&str, &str); 9] = [
    ("litestream_checkpoint_count", "counter"),
    ("litestream_checkpoint_error_count", "counter"),
    ("litestream_checkpoint_seconds", "counter"),
    ("litestream_db_size", "gauge"),
    ("litestream_sync_count", "counter"),
    ("litestream_sync_error_count", "counter"),
    ("litestream_sync_seconds", "counter"),
    ("litestream_total_wal_bytes", "counter"),
    ("litestream_wal_size", "gauge"),
];

/// The metrics of one scrape: the type of each, and the value of each sample by its name and labels.
struct Scrape {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    fn of(url: &str) -> Scrape {
        let answer = get(url, "/metrics", &[]);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        Scrape::parse(&answer.text())
    }

    /// Takes what the text format allows, and nothing else
    /// (<https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details>).
    fn parse(text: &str) -> Scrape {
        assert!(text.ends_with('\n'), "the last line has an end");
        let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
        let (mut helped, mut current) = (BTreeSet::new(), String::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect("a help text");
                assert!(!words.is_empty() && helped.insert(name.to_string()), "{line}: once for each metric");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                assert!(["counter", "gauge"].contains(&kind) && is_name(name) && helped.contains(name), "{line}");
                assert!(types.insert(name.to_string(), kind.to_string()).is_none(), "{line}: once for each metric");
                current = name.to_string();
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a sample");
                assert_eq!(name_of(series), current, "{line}: samples of a metric stand together, after its type");
                check_labels(series);
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}: a number"));
                assert!(samples.insert(series.to_string(), value).is_none(), "{line}: a sample comes once");
            }
        }
        Scrape { types, samples }
    }

    fn value(&self, series: &str) -> f64 {
        let known = || self.samples.keys().cloned().collect::<Vec<_>>().join("\n");
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series} among\n{}", known()))
    }
}

fn name_of(series: &str) -> &str {
    series.split('{').next().expect("a name")
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric())
}

/// Fails unless what stands in braces is `name="value"`, with commas between and quotes, backslashes and line breaks escaped.
fn check_labels(series: &str) {
    let Some((_, labels)) = series.split_once('{') else { return };
    let mut rest = labels.strip_suffix('}').expect("closed braces");
    let mut names = BTreeSet::new();
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{series}: a label"));
        assert!(is_name(name) && names.insert(name), "{series}: labels have names, each its own");
        let mut escaped = false;
        let end = after.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        rest = &after[end.unwrap_or_else(|| panic!("{series}: the end of a value")) + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

fn labels(path: &std::path::Path, more: &str) -> String {
    format!("{{db=\"{}\"{more}}}", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
}

#[test]
fn a_primary_and_its_replica_tell_what_was_counted() {
    let temp = Temp::new();
    let (primary_file, replica_file) = (temp.path("pri \"mary\".db"), temp.path("replica.db"));
    let (mut primary, url) = serving(&primary_file);
    let mut replica = following(&replica_file, &url);
    let own = replica.ask("SELECT litestream_serve('127.0.0.1:0', '{\"metrics_only\": true}')");
    primary.run("INSERT INTO t(x) VALUES ('two')");
    let position = catch_up(&mut primary, &mut replica);
    let here = labels(&primary_file, ",role=\"primary\"");
    let seen = until("the commit was sent and counted", || {
        let seen = Scrape::of(&url);
        let sent = seen
            .value(&format!("litestream_sent_pages_total{}", labels(&primary_file, ",role=\"primary\",kind=\"live\"")));
        if sent > 0.0 { Ok(seen) } else { Err(sent) }
    });
    for (name, kind) in OF_LITESTREAM {
        assert_eq!(seen.types.get(name).map(String::as_str), Some(kind), "{name}");
        let mode = if name.contains("checkpoint") { ",mode=\"PASSIVE\"" } else { "" };
        seen.value(&format!("{name}{}", labels(&primary_file, mode)));
    }
    assert!(seen.value(&format!("litestream_db_size{}", labels(&primary_file, ""))) >= 4096.0);
    assert!(seen.value(&format!("litestream_wal_size{}", labels(&primary_file, ""))) > 4096.0);
    assert!(seen.value(&format!("litestream_sync_count{}", labels(&primary_file, ""))) >= 1.0);
    assert_eq!(
        seen.value(&format!(
            "litestream_replicas_connected{}",
            labels(&primary_file, ",role=\"primary\",state=\"live\"")
        )),
        1.0
    );
    assert_eq!(seen.value(&format!("litestream_connections_total{here}")), 1.0);
    assert_eq!(seen.value(&format!("litestream_commits_total{here}")), 1.0);
    let snapshot = labels(&primary_file, ",role=\"primary\",kind=\"snapshot\"");
    assert_eq!(seen.value(&format!("litestream_sent_pages_total{snapshot}")), 2.0);
    assert!(seen.value(&format!("litestream_sent_bytes_total{snapshot}")) > 8192.0);
    let offset = u64::from_str_radix(position.rsplit(':').next().unwrap(), 16).unwrap();
    assert_eq!(seen.value(&format!("litestream_position_offset_bytes{here}")), offset as f64);
    assert_eq!(
        seen.value(&format!("litestream_state{}", labels(&primary_file, ",role=\"primary\",state=\"serving\""))),
        1.0
    );

    let seen = Scrape::of(&own);
    let there = labels(&replica_file, ",role=\"replica\"");
    assert_eq!(seen.value(&format!("litestream_position_offset_bytes{there}")), offset as f64);
    assert_eq!(seen.value(&format!("litestream_received_pages_total{there}")), 3.0);
    assert!(seen.value(&format!("litestream_received_bytes_total{there}")) > 3.0 * 4096.0);
    assert!(seen.value(&format!("litestream_lag_seconds{there}")) < 60.0);
    for name in ["litestream_reconnects_total", "litestream_heals_total", "litestream_verification_failures_total"] {
        assert_eq!(seen.value(&format!("{name}{there}")), 0.0, "{name}");
    }
    assert!(seen.samples.keys().all(|series| !series.contains("mary")), "the other process tells of its own");
}

#[test]
fn what_was_received_and_lost_is_counted_over_all_connections() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let replica_file = temp.path("replica.db");
    let mut replica = following(&replica_file, &url);
    let own = replica.ask("SELECT litestream_serve('127.0.0.1:0', '{\"metrics_only\": true}')");
    let there = labels(&replica_file, ",role=\"replica\"");
    let received = format!("litestream_received_bytes_total{there}");
    let before = Scrape::of(&own).value(&received);
    primary.run("SELECT litestream_stop()");
    until_gives(
        &mut replica,
        "SELECT reconnects > 0 AND last_error_at >= datetime('now', '-1 hour') FROM litestream_status",
        "1",
    );
    primary.run(&format!("SELECT litestream_serve('{}')", address(&url)));
    primary.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut primary, &mut replica);
    until("more was received than before", || {
        let now = Scrape::of(&own).value(&received);
        if now > before { Ok(()) } else { Err(format!("{now} bytes, {before} before")) }
    });
    let seen = Scrape::of(&own);
    assert!(seen.value(&format!("litestream_reconnects_total{there}")) >= 1.0);
    assert_eq!(seen.value(&format!("litestream_connections_total{there}")), 2.0);
    assert!(seen.value(&format!("litestream_last_error_timestamp_seconds{there}")) > 1.7e9);
}

#[test]
fn promtool_finds_no_fault_but_with_the_names_of_litestream() {
    let temp = Temp::new();
    let (_primary, url) = serving(&temp.path("primary.db"));
    let _replica = following(&temp.path("replica.db"), &url);
    let text = get(&url, "/metrics", &[]).text();
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = started else {
        eprintln!("no promtool here (Debian's package prometheus); the parser of these tests has to do");
        Scrape::parse(&text);
        return;
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let own: Vec<&str> =
        said.lines().filter(|line| !OF_LITESTREAM.iter().any(|(name, _)| line.starts_with(name))).collect();
    assert!(own.is_empty(), "promtool: {own:?}");
    assert!(output.status.code().is_some_and(|code| code == 0 || code == 3), "promtool: {}: {said}", output.status);
}

#[test]
fn a_process_that_does_nothing_yet_can_open_an_address_for_metrics() {
    let mut shell = Shell::open(":memory:".as_ref());
    let url = shell.ask("SELECT litestream_serve('127.0.0.1:0', '{\"metrics_only\": true}')");
    assert_eq!(get(&url, "/healthz", &[]).text(), "ok\n");
    assert_eq!(
        Scrape::of(&url).value(
            "litestream_build_info{version=\"0.1.0\",sqlite_version=\"SQLITE\"}"
                .replace("0.1.0", env!("CARGO_PKG_VERSION"))
                .replace("SQLITE", &shell.ask("SELECT sqlite_version()"))
                .as_str()
        ),
        1.0
    );
    assert_eq!(get(&url, "/stream", &[]).status, 404, "nothing is served there");
    let error = shell.refused(&format!("SELECT litestream_serve('{}', '{{\"metrics_only\": true}}')", address(&url)));
    assert!(error.contains("open already"), "{error}");
    let error = shell.refused("SELECT litestream_serve('127.0.0.1:0', '{\"metrics_only\": true, \"wal_limit\": 0}')");
    assert!(error.contains("wal_limit") && error.contains("no meaning"), "{error}");
    assert_eq!(shell.ask("SELECT litestream_stop()"), format!("metrics at {url}"));
    std::net::TcpStream::connect(address(&url)).expect_err("nobody listens any more");
}

#[test]
fn an_address_for_metrics_ends_with_the_database_that_it_was_opened_from() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let open = "SELECT litestream_serve('127.0.0.1:0', '{\"metrics_only\": true}')";
    let own = primary.ask(open);
    primary.run(&format!(
        "ATTACH '{}' AS other; PRAGMA other.journal_mode = wal; CREATE TABLE other.t(x)",
        temp.path("other.db").display()
    ));
    let error = primary.refused(&format!("SELECT litestream_serve('{}', '{{\"schema\": \"other\"}}')", address(&own)));
    assert!(error.contains("metrics only"), "{error}");
    assert!(
        Scrape::of(&own).samples.keys().any(|series| series.contains("primary.db")),
        "it tells of what is served elsewhere"
    );
    assert_eq!(primary.ask("SELECT litestream_stop()"), format!("served {url}; metrics at {own}"));
    std::net::TcpStream::connect(address(&own)).expect_err("nobody listens any more");
    assert_eq!(primary.ask("SELECT litestream_stop() IS NULL"), "1");
}

#[test]
fn what_differed_and_was_mended_is_counted() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let replica_file = temp.path("replica.db");
    let mut replica = Shell::open(&replica_file);
    replica.run(&format!("SELECT litestream_follow('{url}', '{{\"writable\": true}}')"));
    let own = replica.ask("SELECT litestream_serve('127.0.0.1:0', '{\"metrics_only\": true}')");
    stock(&replica_file, "INSERT INTO t(x) VALUES ('not from the primary')");
    primary.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut primary, &mut replica);
    until_gives(&mut replica, "SELECT heals FROM litestream_status", "1");
    let (seen, there) = (Scrape::of(&own), labels(&replica_file, ",role=\"replica\""));
    assert_eq!(seen.value(&format!("litestream_heals_total{there}")), 1.0);
    assert_eq!(seen.value(&format!("litestream_verification_failures_total{there}")), 1.0);
    let sent = Scrape::of(&url);
    let caught_up = labels(&temp.path("primary.db"), ",role=\"primary\",kind=\"catch_up\"");
    assert!(sent.value(&format!("litestream_sent_pages_total{caught_up}")) >= 1.0);
    assert!(sent.value(&format!("litestream_sent_bytes_total{caught_up}")) > 4096.0);
}

#[test]
fn a_relay_tells_of_its_file_once_and_of_both_its_roles() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let file = temp.path("relay.db");
    let mut relay = following(&file, &url);
    let relayed = relay.ask("SELECT litestream_serve('127.0.0.1:0')");
    let _leaf = following(&temp.path("leaf.db"), &relayed);
    catch_up(&mut primary, &mut relay);
    let seen = Scrape::of(&relayed);
    assert!(seen.value(&format!("litestream_db_size{}", labels(&file, ""))) >= 4096.0);
    assert_eq!(seen.value(&format!("litestream_connections_total{}", labels(&file, ",role=\"relay\""))), 1.0);
    assert_eq!(seen.value(&format!("litestream_connections_total{}", labels(&file, ",role=\"replica\""))), 1.0);
    assert!(seen.value(&format!("litestream_lag_seconds{}", labels(&file, ",role=\"replica\""))) < 60.0);
}

#[test]
fn checkpoints_are_counted_and_a_copy_counts_as_a_snapshot() {
    let temp = Temp::new();
    let file = temp.path("primary.db");
    let (mut primary, url) = serving_bank(&file, 100, "{}");
    for seed in 0..60 {
        primary.run(&bank::step(seed, 60));
    }
    let checkpoints = format!("litestream_checkpoint_count{}", labels(&file, ",mode=\"PASSIVE\""));
    until("a checkpoint was counted", || match Scrape::of(&url).value(&checkpoints) {
        0.0 => Err("none"),
        _ => Ok(()),
    });
    let seen = Scrape::of(&url);
    assert!(seen.value(&format!("litestream_checkpoint_seconds{}", labels(&file, ",mode=\"PASSIVE\""))) > 0.0);
    assert!(seen.value(&format!("litestream_total_wal_bytes{}", labels(&file, ""))) > 60.0 * 60.0 * 4096.0);
    let bytes = std::io::copy(&mut get(&url, "/snapshot", &[]), &mut std::io::sink()).unwrap();
    let seen = Scrape::of(&url);
    assert_eq!(seen.value(&format!("litestream_snapshots_total{}", labels(&file, ",role=\"primary\""))), 1.0);
    let snapshot = labels(&file, ",role=\"primary\",kind=\"snapshot\"");
    assert_eq!(seen.value(&format!("litestream_sent_bytes_total{snapshot}")), bytes as f64);
}
