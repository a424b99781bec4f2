//! The page for people and its data: what they tell, with and without JavaScript, and that nothing in them is anybody else's.
//!
//! Some of these tests need Chromium (Debian's package chromium) and do less without it. With `SCREENSHOTS=folder` in the environment they leave
//! pictures there.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use support::*;

/// A name that would be more than a name if it were not escaped.
const HOSTILE: &str = "<img src=x onerror=\"document.title=1\">&amp;'{{nonce}}.db";

fn body(url: &str, target: &str) -> String {
    let answer = get(url, target, &[]);
    assert_eq!(answer.status, 200, "{target}");
    answer.text()
}

fn status(url: &str) -> Value {
    serde_json::from_str(&body(url, "/status.json")).unwrap()
}

/// What a headless Chromium makes of `url` after some seconds of its own time: the document, and what went to the console. None
/// where there is no Chromium.
fn browse(url: &str, more: &[&str]) -> Option<(String, String)> {
    let profile = Temp::new();
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--virtual-time-budget=4000",
    ]);
    command.arg(format!("--user-data-dir={}", profile.as_ref().display())).args(more).arg("--dump-dom").arg(url);
    let Ok(output) = command.output() else {
        eprintln!("no chromium here (Debian's package chromium)");
        return None;
    };
    let [document, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success() && document.contains("</html>"), "chromium: {}: {said}", output.status);
    let console = said.lines().filter(|line| line.contains("CONSOLE")).collect::<Vec<_>>().join("\n");
    Some((document, console))
}

/// Takes a picture of `url`, and fails unless there is one.
fn picture(url: &str, name: &str, width: u32, height: u32) {
    let temp = Temp::new();
    let file = temp.path(name);
    let arguments = [format!("--screenshot={}", file.display()), format!("--window-size={width},{height}")];
    if browse(url, &arguments.each_ref().map(String::as_str)).is_none() {
        return;
    }
    let bytes = fs::read(&file).unwrap_or_else(|e| panic!("a picture of {url}: {e}"));
    assert!(bytes.starts_with(b"\x89PNG"), "{} bytes that are no picture", bytes.len());
    if let Some(folder) = std::env::var_os("SCREENSHOTS") {
        fs::copy(&file, PathBuf::from(folder).join(name)).unwrap();
    }
}

/// A primary with a replica, both served and followed by processes of their own, and an address of the second.
fn pair(temp: &Temp, name: &str) -> (Shell, Shell, String, String) {
    let (mut primary, url) = serving(&temp.path(name));
    let mut replica = following(&temp.path("replica.db"), &url);
    let own = replica.ask("SELECT litestream_serve('127.0.0.1:0', '{\"metrics_only\": true}')");
    primary.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut primary, &mut replica);
    (primary, replica, url, own)
}

/// The script taken out: what is left is what a browser without JavaScript shows.
fn without_script(page: &str) -> String {
    let (before, rest) = page.split_once("<script").unwrap();
    let (_, after) = rest.split_once("</script>").unwrap();
    before.to_string() + after
}

#[test]
fn the_data_says_what_the_tables_say() {
    let temp = Temp::new();
    let (mut primary, mut replica, url, own) = pair(&temp, "primary.db");
    let served = &status(&url)["databases"][0];
    assert_eq!(served["role"], "primary");
    assert_eq!(served["state"], "serving");
    assert_eq!(served["database"].as_str(), temp.path("primary.db").to_str());
    assert_eq!(served["position"], primary.ask("SELECT litestream_position()"));
    assert_eq!(served["replicas"][0]["client"], primary.ask("SELECT client FROM litestream_replicas"));
    assert_eq!(served["replicas"][0]["state"], "live");
    assert_eq!(served["sent"]["snapshot"]["pages"], 2);
    assert!(served["wal_bytes"].as_u64() > Some(0) && served["db_bytes"].as_u64() > Some(0));
    let followed = &status(&own)["databases"][0];
    assert_eq!((followed["role"].as_str(), followed["state"].as_str()), (Some("replica"), Some("streaming")));
    assert_eq!(followed["pages"].to_string(), replica.ask("SELECT pages FROM litestream_status"));
    assert!(followed["lag"].is_number() && followed["last_error"].is_null());
    primary.run("SELECT litestream_stop()");
    until("the follower tells of its error", || match &status(&own)["databases"][0]["last_error_at"] {
        Value::Number(at) if at.as_f64() > Some(1.7e12) => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn the_page_is_complete_as_it_comes_and_names_are_text() {
    let temp = Temp::new();
    let (_primary, _replica, url, own) = pair(&temp, HOSTILE);
    let answer = get(&url, "/", &[]);
    let policy = answer.header("content-security-policy").unwrap().to_string();
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    let page = answer.text();
    let nonce = policy.split("'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
    assert_eq!(nonce.len(), 32);
    for tag in ["style", "script"] {
        assert_eq!(page.matches(&format!("<{tag}")).count(), 1, "{tag}");
        assert!(page.contains(&format!("<{tag} nonce=\"{nonce}\">")), "{tag}");
    }
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    assert!(!body(&url, "/").contains(nonce), "a nonce is for one answer");
    let page = without_script(&page);
    assert!(
        !page.contains("<img")
            && page.contains("&lt;img src=x onerror=&quot;document.title=1&quot;&gt;&amp;amp;&#39;{{nonce}}.db")
    );
    for (told, what) in [(">serving<", "state"), (">live<", "replica"), ("Position", "position"), ("WAL", "WAL")] {
        assert!(page.contains(told), "{what}: {page}");
    }
    let followed = without_script(&body(&own, "/"));
    assert!(
        followed.contains(">streaming<") && followed.contains("replica.db") && followed.contains("Lag"),
        "{followed}"
    );
}

#[test]
fn a_process_that_does_nothing_says_so() {
    let mut shell = Shell::open(":memory:".as_ref());
    let url = shell.ask("SELECT litestream_serve('127.0.0.1:0', '{\"metrics_only\": true}')");
    assert!(body(&url, "/").contains("serves and follows no database"));
    assert_eq!(status(&url)["databases"], Value::Array(Vec::new()));
}

#[test]
fn errors_are_told_on_the_page_as_text() {
    let temp = Temp::new();
    let upstream = Upstream::start(|_, reply| {
        let at = stream::At(1, 0, 32);
        reply.stream_v2(512);
        reply.send(&stream::encode(&stream::everything(at, &small_database(), 512)));
        reply.send(&stream::error(at, "<script>alert(1)</script>").encode());
        reply.end();
    });
    let mut replica = Shell::open(&temp.path("replica.db"));
    let own = replica.ask("SELECT litestream_serve('127.0.0.1:0', '{\"metrics_only\": true}')");
    replica.run(&format!("SELECT litestream_follow('{}')", upstream.url()));
    until("the page tells of the error", || {
        let page = without_script(&body(&own, "/"));
        assert!(!page.contains("<script>alert"), "{page}");
        if page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") { Ok(()) } else { Err(page) }
    });
}

fn small_database() -> Vec<u8> {
    let temp = Temp::new();
    let database = temp.path("one.db");
    stock(&database, "PRAGMA page_size = 512; PRAGMA journal_mode = wal; PRAGMA user_version = 7");
    file_bytes(&database)
}

#[test]
fn a_browser_keeps_the_page_up_to_date_and_runs_nothing_else() {
    let temp = Temp::new();
    let (_primary, _replica, url, own) = pair(&temp, HOSTILE);
    for (url, words) in [(&url, ["serving", "live, 20"]), (&own, ["streaming", "live, 20"])] {
        let Some((document, console)) = browse(&format!("http://{}/", address(url)), &[]) else { return };
        assert!(document.contains("<html lang=\"en\" class=\"js\">"), "the script ran: {document}");
        assert_eq!(console, "", "nothing went wrong in it");
        for word in words {
            assert!(document.contains(word), "{word}: {document}");
        }
        let points = document.split("<polyline points=\"").nth(1).and_then(|rest| rest.split('"').next());
        let points = points.unwrap_or_else(|| panic!("no chart was drawn: {document}"));
        assert!(points.split(' ').count() >= 2, "it was drawn again and again: {points}");
        assert!(!document.contains("<img") && document.contains("<title>litestream</title>"), "names are text");
    }
}

#[test]
fn a_database_that_comes_later_appears_on_the_page() {
    let temp = Temp::new();
    let (_primary, _replica, url, _own) = pair(&temp, "later.db");
    let mut idle = Shell::open(":memory:".as_ref());
    let before = body(&idle.ask("SELECT litestream_serve('127.0.0.1:0', '{\"metrics_only\": true}')"), "/");
    assert!(!before.contains("later.db"));
    let asked = AtomicU32::new(0);
    let server = Upstream::start(move |request, reply| match request.line.as_str() {
        "GET /" if asked.fetch_add(1, Ordering::SeqCst) == 0 => reply.text("200 OK", "text/html", &before),
        "GET /" => reply.text("200 OK", "text/html", &body(&url, "/")),
        "GET /status.json" => reply.text("200 OK", "application/json", &body(&url, "/status.json")),
        other => panic!("the browser asks for {other}"),
    });
    let Some((document, console)) = browse(&format!("{}/", server.url()), &[]) else { return };
    assert_eq!(console, "");
    assert!(document.contains("later.db") && document.contains(">live<"), "{document}");
}

#[test]
fn the_page_can_be_looked_at_on_a_desk_on_a_phone_and_without_javascript() {
    let temp = Temp::new();
    let (_primary, _replica, url, own) = pair(&temp, "app.db");
    let plain = temp.path("plain.html");
    fs::write(&plain, without_script(&body(&url, "/"))).unwrap();
    let [url, own] = [&url, &own].map(|url| format!("http://{}/", address(url)));
    picture(&url, "desk.png", 1100, 800);
    picture(&url, "phone.png", 500, 1000);
    picture(&own, "follower.png", 500, 800);
    picture(&file_url(&plain), "plain.png", 1100, 800);
    let Some((document, _)) = browse(&file_url(&plain), &[]) else { return };
    assert!(!document.contains("class=\"js\"") && document.contains("app.db") && document.contains(">live<"));
}

fn file_url(path: &Path) -> String {
    format!("file://{}", path.display())
}
