//! docs/examples/Dockerfile and compose.yaml, without an engine: each step of the image is taken, the commands of a primary and of a
//! replica run in it as process 1, and they are found healthy, replicate, and end when they are asked to.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use support::*;

const TOKEN: (&str, &str) = ("LITESTREAM_TOKEN", "a-token-of-the-tests");

fn example(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples").join(name)).unwrap()
}

/// What stands after the only instruction of that name.
fn only<'a>(image: &'a [(String, String)], name: &str) -> &'a str {
    let found: Vec<_> = image.iter().filter(|(instruction, _)| instruction == name).collect();
    let [(_, rest)] = found[..] else { panic!("one {name}: {found:?}") };
    rest
}

/// The command of the health check.
fn health_check(image: &[(String, String)]) -> Vec<String> {
    let (options, words) = only(image, "HEALTHCHECK").split_once("CMD ").unwrap();
    assert!(options.split(' ').all(|option| option.is_empty() || option.starts_with("--")), "{options}");
    command(words)
}

/// The command of the replicas, which stands in one line.
fn of_replicas(compose: &str) -> Vec<String> {
    let lines: Vec<_> = compose.lines().filter_map(|line| line.trim().strip_prefix("command: ")).collect();
    let [line] = lines[..] else { panic!("one command: {lines:?}") };
    command(line)
}

/// A command at an address of this machine alone, and that of the primary likewise.
fn at(command: &[String], own: &str, primary: &str) -> Vec<String> {
    let moved = |word: &String| {
        word.replace("0.0.0.0:9090", own).replace("127.0.0.1:9090", own).replace("primary:9090", primary)
    };
    command.iter().map(moved).collect()
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|word| word.to_string()).collect()
}

#[test]
fn the_image_of_the_documentation_becomes_a_primary_and_a_replica_that_end_when_asked() {
    let image = last_stage(&example("Dockerfile"));
    let (check, serve) = (health_check(&image), command(only(&image, "CMD")));
    let follow = of_replicas(&example("compose.yaml"));
    if !Container::are_possible() {
        println!("left out: root and overlays are needed for a container");
        return;
    }
    let (address, other) = (free_address(), free_address());
    let start = |command: &[String], own: &str| Container::start(&image, &at(command, own, &address), &[TOKEN]);
    let until_healthy = |container: &Container, own: &str| {
        until("it is healthy", || match container.run(&at(&check, own, "")) {
            healthy if healthy.status.success() => Ok(()),
            sick => Err(String::from_utf8_lossy(&sick.stderr).into_owned()),
        });
    };
    let primary = start(&serve, &address);
    until_healthy(&primary, &address);
    let replica = start(&follow, &other);
    until_healthy(&replica, &other);

    let written = primary.run(&words(&["sqlite3", "/data/app.db", "CREATE TABLE t(x); INSERT INTO t VALUES ('one')"]));
    assert!(written.status.success(), "{written:?}");
    until("the row arrives", || match replica.run(&words(&["sqlite3", "/data/app.db", "SELECT x FROM t"])) {
        read if read.stdout == b"one\n" => Ok(()),
        read => Err(format!("{read:?}")),
    });
    let owner = replica.run(&words(&["stat", "-c", "%U", "/data/app.db"]));
    assert_eq!(String::from_utf8_lossy(&owner.stdout).trim(), only(&image, "USER"));

    let signal = only(&image, "STOPSIGNAL").strip_prefix("SIG").unwrap();
    for container in [replica, primary] {
        until_it_waits(container.pid());
        assert_eq!(container.stop(signal), Some(0), "the code that it ended with");
    }
}

#[test]
fn the_image_serves_nobody_without_a_token() {
    let image = last_stage(&example("Dockerfile"));
    let temp = Temp::new();
    let words = command(only(&image, "CMD"));
    let words: Vec<_> = words
        .iter()
        .map(|word| word.replace("/usr/local/lib/liblitestream", &library().display().to_string()))
        .collect();
    let mut serve = Command::new(&words[0]);
    let ended = serve.args(&words[1..]).current_dir(&temp).env_remove("LITESTREAM_TOKEN").output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains("0.0.0.0:9090") && said.contains("token"), "{said}");
}

#[test]
fn the_image_is_built_as_make_builds_it_and_runs_as_nobody_special() {
    let dockerfile = example("Dockerfile");
    let makefile = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile")).unwrap();
    let build = dockerfile.lines().find_map(|line| line.strip_prefix("RUN cargo ")).expect("it is built");
    assert!(makefile.contains(&format!("\tcargo {build}\n")), "cargo {build}, as in the Makefile");
    let image = last_stage(&dockerfile);
    assert_ne!(only(&image, "USER"), "root");
    assert_eq!(only(&image, "VOLUME"), only(&image, "WORKDIR"), "the database is in the volume");
    assert_eq!(only(&image, "STOPSIGNAL"), "SIGTERM");
}
