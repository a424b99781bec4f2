//! What calls, environment, the database's own settings and defaults say, and which of them counts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use support::*;

const SECRET: &str = "s3cret-0123456789abcdef";

fn config_of(database: &Path) -> PathBuf {
    with_suffix(database, "-litestream").join("config.json")
}

/// An address of this machine that nobody listens at.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// A new database in WAL mode.
fn new_database(temp: &Temp) -> PathBuf {
    let path = temp.path("app.db");
    stock(&path, NEW);
    path
}

fn effective(shell: &mut Shell, name: &str) -> String {
    shell.ask(&format!("SELECT value, source FROM litestream_config WHERE name = '{name}'"))
}

/// What a request gets that shows `token`.
fn status_with(url: &str, token: &str) -> u16 {
    get(url, "/status.json", &[("Authorization", &format!("Bearer {token}"))]).status
}

#[test]
fn settings_are_merged_taken_away_and_kept() {
    let temp = Temp::new();
    let path = new_database(&temp);
    let mut shell = Shell::open(&path);
    assert_eq!(shell.ask("SELECT litestream_config()"), "{}");
    assert!(!config_of(&path).exists());
    assert_eq!(
        shell.ask("SELECT litestream_config('{\"wal_limit\": 5000, \"insecure\": true}')"),
        r#"{"insecure":true,"wal_limit":5000}"#
    );
    assert_eq!(
        shell.ask("SELECT litestream_config('{\"wal_limit\": 0, \"insecure\": null, \"max_streams\": 3}')"),
        r#"{"max_streams":3,"wal_limit":0}"#
    );
    assert!(shell.quit().success());
    let mut shell = Shell::open(&path);
    assert_eq!(shell.ask("SELECT litestream_config()"), r#"{"max_streams":3,"wal_limit":0}"#);
    let text = fs::read_to_string(config_of(&path)).unwrap();
    assert_eq!(text, "{\n  \"max_streams\": 3,\n  \"wal_limit\": 0\n}\n", "for people to read");
    assert_eq!(shell.ask("SELECT litestream_config('{\"wal_limit\": null, \"max_streams\": null}')"), "{}");
    assert_eq!(effective(&mut shell, "max_streams"), "512|default");
}

#[test]
fn what_is_no_setting_is_refused_in_words_and_nothing_is_stored() {
    let temp = Temp::new();
    let path = new_database(&temp);
    let mut shell = Shell::open(&path);
    let good = r#"{"max_streams":3}"#;
    shell.run(&format!("SELECT litestream_config('{good}')"));
    let file = fs::read(config_of(&path)).unwrap();
    for (wrong, parts) in [
        ("", "not JSON"),
        ("[]", "no object"),
        ("{\"wal_limits\": 1}", "unknown setting 'wal_limits'; known are addr, upstream"),
        ("{\"wal_limits\": null}", "unknown setting 'wal_limits'"),
        ("{\"schema\": \"main\"}", "unknown setting 'schema'"),
        ("{\"max_streams\": 0}", "'max_streams' is 0, expected a whole number from 1 up"),
        ("{\"max_head_bytes\": 10}", "expected a whole number from 1024 up"),
        ("{\"max_streams\": \"5\"}", "'max_streams' is \"5\", expected a whole number"),
        ("{\"max_streams\": 5, \"insecure\": 1}", "'insecure' is 1, expected true or false"),
        ("{\"addr\": 9090}", "'addr' is 9090, expected an address"),
        ("{\"addr\": \"9090\"}", "'9090' is not an address to listen on"),
        ("{\"upstream\": \"app.db\"}", "not the URL of an upstream"),
        ("{\"compression\": \"zip\"}", "\"none\" or \"lz4\""),
        ("{\"tls_cert\": \"\"}", "expected the path of a file"),
        ("{\"token\": \"two words\"}", "the token holds a space"),
        ("{\"token\": []}", "not what was expected"),
        ("{\"token\": \"(set)\"}", "leave it out"),
    ] {
        let error = shell.refused(&format!("SELECT litestream_config('{wrong}')"));
        assert!(error.contains(parts), "{wrong}: {error}");
        assert!(!error.contains("two words"), "{wrong}: {error}");
        assert_eq!(fs::read(config_of(&path)).unwrap(), file, "{wrong}");
    }
    for wrong in ["NULL", "1", "x'7b7d'"] {
        let error = shell.refused(&format!("SELECT litestream_config({wrong})"));
        assert!(error.contains("expected text"), "{wrong}: {error}");
    }
    let error = Shell::open(":memory:".as_ref()).refused("SELECT litestream_config('{}')");
    assert!(error.contains("in memory or temporary"), "{error}");
}

#[test]
fn secrets_are_stored_for_this_user_only_and_never_shown() {
    let temp = Temp::new();
    let path = new_database(&temp);
    let mut shell = Shell::open(&path);
    let stored = shell.ask(&format!(
        "SELECT litestream_config('{{\"token\": \"{SECRET}\", \"upstream\": \"http://{SECRET}@127.0.0.1:1/app.db\"}}')"
    ));
    assert_eq!(stored, r#"{"token":"(set)","upstream":"http://127.0.0.1:1/app.db"}"#);
    assert_eq!(shell.ask("SELECT litestream_config()"), stored);
    assert_eq!(effective(&mut shell, "token"), "(set)|config");
    assert_eq!(effective(&mut shell, "upstream"), "http://127.0.0.1:1/app.db|config");
    assert!(!shell.ask("SELECT * FROM litestream_config").contains(SECRET));
    shell.run("SELECT litestream_config('{\"token\": null, \"upstream\": null}')");
    fs::set_permissions(config_of(&path), fs::Permissions::from_mode(0o644)).unwrap();
    shell.run(&format!("SELECT litestream_config('{{\"token\": \"{SECRET}\"}}')"));
    let mode = || fs::metadata(config_of(&path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    assert!(fs::read_to_string(config_of(&path)).unwrap().contains(SECRET));
    // What somebody chose stays.
    fs::set_permissions(config_of(&path), fs::Permissions::from_mode(0o640)).unwrap();
    shell.run("SELECT litestream_config('{\"upstream\": null}')");
    assert_eq!(mode(), 0o640);
    let (_shell, error) =
        Shell::not_loading(&temp.path("other.db"), &[("LITESTREAM_UPSTREAM", &format!("ftp://{SECRET}@h"))]);
    assert!(error.contains("unknown scheme") && !error.contains(SECRET), "{error}");
}

#[test]
fn every_option_that_does_not_name_a_database_is_a_setting() {
    let temp = Temp::new();
    let mut shell = Shell::open(&new_database(&temp));
    let mut known = BTreeSet::new();
    for call in ["litestream_serve('127.0.0.1:0', '{\"?\": 1}')", "litestream_follow('http://h', '{\"?\": 1}')"] {
        let error = shell.refused(&format!("SELECT {call}"));
        let (_, names) = error.split_once("known are ").unwrap();
        known.extend(names.split(", ").map(|name| name.trim().to_string()));
    }
    assert!(known.remove("schema"));
    known.extend(["addr".to_string(), "upstream".to_string()]);
    let settings = shell.ask("SELECT name FROM litestream_config");
    assert_eq!(settings.lines().map(str::to_string).collect::<BTreeSet<_>>(), known);
    // And each has a variable and a row in the manual.
    let manual = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/running.md")).unwrap();
    for name in known {
        let variable = format!("LITESTREAM_{}", name.to_uppercase());
        assert!(manual.contains(&format!("| `{name}` | `{variable}` |")), "docs/running.md has no row of {name}");
        let mut shell = Shell::told(":memory:".as_ref(), &[(&variable, "true")]);
        let said = shell.answer(&format!("SELECT source FROM litestream_config WHERE name = '{name}'"));
        // Either it is taken, or refused by its name.
        assert!(said.clone().map_or_else(|e| e.contains(&variable), |source| source == "environment"), "{said:?}");
    }
}

#[test]
fn an_address_is_taken_from_the_call_or_else_the_environment_or_else_the_settings() {
    let temp = Temp::new();
    let path = new_database(&temp);
    let [call, environment, config] = [free_address(), free_address(), free_address()];
    let served_at = |shell: &mut Shell, sql: &str| {
        let url = shell.ask(&format!("SELECT litestream_serve({sql})"));
        assert_eq!(get(&url, "/healthz", &[]).text(), "ok\n");
        shell.run("SELECT litestream_stop()");
        address(&url).to_string()
    };
    let mut shell = Shell::open(&path);
    let error = shell.refused("SELECT litestream_serve()");
    assert!(error.contains("LITESTREAM_ADDR") && error.contains("litestream_config"), "{error}");
    shell.run(&format!("SELECT litestream_config('{{\"addr\": \"{config}\"}}')"));
    assert_eq!(served_at(&mut shell, ""), config);
    assert_eq!(served_at(&mut shell, &format!("'{call}'")), call);
    drop(shell);
    let mut shell = Shell::told(&path, &[("LITESTREAM_ADDR", &environment)]);
    assert_eq!(effective(&mut shell, "addr"), format!("{environment}|environment"));
    shell.run("SELECT litestream_stop()"); // what loading began
    assert_eq!(served_at(&mut shell, ""), environment);
    assert_eq!(served_at(&mut shell, &format!("'{call}'")), call);
}

#[test]
fn a_token_is_taken_from_the_call_or_else_the_environment_or_else_the_settings() {
    let temp = Temp::new();
    let path = new_database(&temp);
    let mut shell = Shell::open(&path);
    let accepted = |shell: &mut Shell, options: &str| {
        let url = shell.ask(&format!("SELECT litestream_serve('127.0.0.1:0', '{options}')"));
        let tokens = ["of-the-call", "of-the-environment", "of-the-settings", "none"];
        let accepted: Vec<&str> = tokens.into_iter().filter(|token| status_with(&url, token) == 200).collect();
        shell.run("SELECT litestream_stop()");
        accepted.join(" ")
    };
    let of_the_call = "{\"token\": \"of-the-call\"}";
    assert_eq!(accepted(&mut shell, "{}"), "of-the-call of-the-environment of-the-settings none");
    shell.run("SELECT litestream_config('{\"token\": \"of-the-settings\"}')");
    assert_eq!(accepted(&mut shell, "{}"), "of-the-settings");
    assert_eq!(accepted(&mut shell, of_the_call), "of-the-call");
    drop(shell);
    fs::write(temp.path("tokens"), "of-the-environment\n").unwrap();
    let file = temp.path("tokens").display().to_string();
    for variable in [("LITESTREAM_TOKEN", "of-the-environment"), ("LITESTREAM_TOKEN_FILE", &file)] {
        let mut shell = Shell::told(&path, &[variable]);
        assert_eq!(accepted(&mut shell, "{}"), "of-the-environment", "{variable:?}");
        assert_eq!(accepted(&mut shell, of_the_call), "of-the-call", "{variable:?}");
    }
}

#[test]
fn a_number_is_taken_from_the_call_or_else_the_environment_or_else_the_settings_or_is_the_default() {
    let temp = Temp::new();
    let path = new_database(&temp);
    // What an address has shows when another value is asked for there.
    let has = |shell: &mut Shell, options: &str| {
        shell.run(&format!("SELECT litestream_serve('127.0.0.1:0', '{options}')"));
        let error = shell.refused("SELECT litestream_serve('127.0.0.1:0', '{\"max_streams\": 99}')");
        shell.run("SELECT litestream_stop()");
        let (_, there) = error.split_once("'max_streams' is 99 here and ").unwrap();
        there.split(' ').next().unwrap().to_string()
    };
    let mut shell = Shell::open(&path);
    assert_eq!(has(&mut shell, "{}"), "512");
    shell.run("SELECT litestream_config('{\"max_streams\": 3}')");
    assert_eq!(has(&mut shell, "{}"), "3");
    assert_eq!(effective(&mut shell, "max_streams"), "3|config");
    assert_eq!(has(&mut shell, "{\"max_streams\": 7}"), "7");
    let mut shell = Shell::told(&path, &[("LITESTREAM_MAX_STREAMS", "5")]);
    assert_eq!(effective(&mut shell, "max_streams"), "5|environment");
    assert_eq!(has(&mut shell, "{}"), "5");
    assert_eq!(has(&mut shell, "{\"max_streams\": 7}"), "7");
}

#[test]
fn an_upstream_is_taken_from_the_call_or_else_the_environment_or_else_the_settings() {
    let temp = Temp::new();
    let mut primaries = Vec::new();
    let mut urls = Vec::new();
    for name in ["call", "environment", "config"] {
        let folder = temp.folder(name);
        let (mut primary, url) = serving(&folder.join("app.db"));
        primary.run(&format!("UPDATE t SET x = '{name}'"));
        primaries.push(primary);
        urls.push(url);
    }
    let [call, environment, config] = urls.as_slice() else { panic!("three") };
    let followed = |shell: &mut Shell, sql: &str| {
        for function in ["pull", "follow"] {
            shell.run(&format!("SELECT litestream_{function}({sql})"));
        }
        let url = shell.ask("SELECT url FROM litestream_status");
        let row = shell.ask("SELECT x FROM t");
        assert_eq!(shell.ask("SELECT litestream_stop()"), format!("followed {url}"));
        row
    };
    let overwrite = "'{\"overwrite\": true}'";
    let folder = temp.folder("replica");
    let path = folder.join("app.db");
    let mut shell = Shell::open(&path);
    let error = shell.refused("SELECT litestream_follow()");
    assert!(error.contains("LITESTREAM_UPSTREAM"), "{error}");
    shell.run(&format!("SELECT litestream_config('{{\"upstream\": \"{config}\", \"overwrite\": true}}')"));
    assert_eq!(followed(&mut shell, ""), "config");
    assert_eq!(followed(&mut shell, &format!("'{call}'")), "call");
    drop(shell);
    // In the environment, the name of the file is added.
    let base = format!("http://{}", address(environment));
    let mut shell = Shell::told(&path, &[("LITESTREAM_UPSTREAM", &base)]);
    assert_eq!(effective(&mut shell, "upstream"), format!("{environment}|environment"));
    shell.run("SELECT litestream_stop()"); // what loading began
    assert_eq!(followed(&mut shell, ""), "environment");
    assert_eq!(followed(&mut shell, &format!("'{call}', {overwrite}")), "call");
}

#[test]
fn a_variable_with_a_wrong_value_is_refused_by_its_name() {
    let temp = Temp::new();
    let path = new_database(&temp);
    for (variable, value, part) in [
        ("LITESTREAM_WAL_LIMIT", "much", "LITESTREAM_WAL_LIMIT is \"much\", expected a whole number from 0 up"),
        ("LITESTREAM_WAL_LIMIT", "", "LITESTREAM_WAL_LIMIT is \"\""),
        ("LITESTREAM_INSECURE", "yes", "LITESTREAM_INSECURE is \"yes\", expected true or false"),
        ("LITESTREAM_TOKEN", "two words", "LITESTREAM_TOKEN: the token holds a space"),
        ("LITESTREAM_TLS_CERT", "", "LITESTREAM_TLS_CERT is \"\", expected the path of a file"),
        (
            "LITESTREAM_MAX_HEAD_BYTES",
            "1023",
            "LITESTREAM_MAX_HEAD_BYTES is 1023, expected a whole number from 1024 up",
        ),
    ] {
        let mut shell = Shell::told(&path, &[(variable, value)]);
        let error = shell.refused("SELECT litestream_serve('127.0.0.1:0')");
        assert!(error.contains(part), "{variable}={value}: {error}");
    }
    for value in ["", "9090"] {
        let (_shell, error) = Shell::not_loading(&path, &[("LITESTREAM_ADDR", value)]);
        assert!(error.contains("LITESTREAM_ADDR") && error.contains("address"), "{value}: {error}");
    }
}

#[test]
fn calling_again_with_the_same_arguments_changes_nothing_and_with_others_is_an_error() {
    let temp = Temp::new();
    let path = new_database(&temp);
    let mut shell = Shell::open(&path);
    let options = "{\"wal_limit\": 1000000, \"token\": \"t0ken\"}";
    let url = shell.ask(&format!("SELECT litestream_serve('127.0.0.1:0', '{options}')"));
    for address in ["127.0.0.1:0", ":0", address(&url)] {
        assert_eq!(shell.ask(&format!("SELECT litestream_serve('{address}', '{options}')")), url, "{address}");
    }
    let elsewhere = free_address();
    for other in [
        format!("'{elsewhere}', '{options}'"),
        format!("'0.0.0.0:0', '{options}'"),
        "'127.0.0.1:0', '{\"wal_limit\": 1000000, \"token\": \"other\"}'".to_string(),
        "'127.0.0.1:0', '{\"wal_limit\": 5, \"token\": \"t0ken\"}'".to_string(),
        "'127.0.0.1:0'".to_string(),
    ] {
        let error = shell.refused(&format!("SELECT litestream_serve({other})"));
        assert!(error.contains(&format!("is being served already, at {url}")), "{other}: {error}");
    }
    let mut replica = Shell::open(&temp.path("replica.db"));
    let follow = |how: &str| format!("SELECT litestream_follow('{url}', '{{\"token\": \"t0ken\"{how}}}')");
    let position = replica.ask(&follow(""));
    assert_eq!(replica.ask(&follow("")), position);
    for other in
        [follow(", \"timeout_ms\": 5000"), follow(", \"overwrite\": true"), follow("").replace("t0ken", "other")]
    {
        let error = replica.refused(&other);
        assert!(error.contains(&format!("follows {url} already, with other options")), "{other}: {error}");
    }
    let error = replica.refused(&format!("SELECT litestream_follow('http://{elsewhere}/app.db')"));
    assert!(error.contains(&format!("follows {url} already; litestream_stop()")), "{error}");
    assert_eq!(replica.ask("SELECT count(*) FROM litestream_status"), "1");
}

#[test]
fn promoting_forgets_what_was_followed_and_replicas_get_no_settings_of_their_primary() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    primary.run("SELECT litestream_config('{\"max_streams\": 3}')");
    let replica = temp.path("replica.db");
    let mut shell = Shell::open(&replica);
    shell.run(&format!(
        "SELECT litestream_config('{{\"upstream\": \"{url}\", \"overwrite\": true, \"compression\": \"none\"}}')"
    ));
    shell.run("SELECT litestream_follow()");
    assert_eq!(effective(&mut shell, "max_streams"), "512|default");
    shell.run("SELECT litestream_promote()");
    assert_eq!(shell.ask("SELECT litestream_config()"), r#"{"compression":"none"}"#);
    let mut shell = Shell::open(&replica);
    shell.run("INSERT INTO t(x) VALUES ('own')");
    assert_eq!(shell.ask("SELECT count(*) FROM litestream_status"), "0");
}
