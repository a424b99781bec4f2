//! Who may ask, and what those learn who may not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, File};
use std::path::Path;

use support::*;

/// What no output may hold.
const SECRET: &str = "s3cret-0123456789abcdef";
const OTHER: &str = "0ther-fedcba9876543210";

const VERSION_2: (&str, &str) = ("Litestream-Stream-Version", "2");

/// A shell with `LITESTREAM_TOKEN` in its environment.
fn with_environment(database: &Path, token: &str) -> Shell {
    Shell::with(database, |command| {
        command.env("LITESTREAM_TOKEN", token);
    })
}

fn token_option(token: &str) -> String {
    format!("{{\"token\": \"{token}\"}}")
}

fn file_option(path: &Path) -> String {
    format!("{{\"token_file\": \"{}\"}}", path.display())
}

/// `http://login@host:port/name` of `http://host:port/name`.
fn with_login(url: &str, login: &str) -> String {
    url.replace("//", &format!("//{login}@"))
}

fn status_of(url: &str, method: &str, target: &str, authorization: Option<&str>) -> u16 {
    let mut headers = vec![VERSION_2, ("Content-Length", "0")];
    headers.extend(authorization.map(|value| ("Authorization", value)));
    request(method, url, target, &headers).status
}

#[test]
fn an_address_that_is_not_loopback_is_refused_unless_somebody_is_asked_for_something_or_it_is_meant() {
    let temp = Temp::new();
    fs::write(temp.path("tokens"), SECRET).unwrap();
    let mut shell = Shell::open(&temp.path("app.db"));
    shell.run(NEW);
    for address in ["192.0.2.1:0", "0.0.0.0:0", "[::]:0", "[2001:db8::1]:0"] {
        let error = shell.refused(&format!("SELECT litestream_serve('{address}')"));
        for part in ["is not a loopback address", "'token'", "LITESTREAM_TOKEN", "{\"insecure\": true}"] {
            assert!(error.contains(part), "{address}: no {part} in: {error}");
        }
        assert_eq!(shell.ask("SELECT count(*) FROM litestream_status"), "0");
    }
    // 192.0.2.0/24 is set aside for documentation: no machine has it, and past the first check it cannot be had.
    let options = [token_option(SECRET), file_option(&temp.path("tokens")), "{\"insecure\": true}".to_string()];
    for options in options {
        let error = shell.refused(&format!("SELECT litestream_serve('192.0.2.1:0', '{options}')"));
        assert!(error.contains("does not have that address"), "{options}: {error}");
    }
    let error = with_environment(&temp.path("app.db"), SECRET).refused("SELECT litestream_serve('192.0.2.1:0')");
    assert!(error.contains("does not have that address"), "{error}");
}

#[test]
fn every_route_but_healthz_asks_for_a_token() {
    let temp = Temp::new();
    let (_primary, url) = serving_with(&temp.path("primary.db"), &token_option(SECRET));
    let bearer = format!("Bearer {SECRET}");
    for (method, target) in [
        ("GET", "/stream?path=primary.db"),
        ("POST", "/stream?path=primary.db&page_size=4096"),
        ("POST", "/verify?path=primary.db&page_size=4096"),
        ("GET", "/"),
        ("GET", "/metrics"),
        ("GET", "/status.json"),
        ("GET", "/snapshot?path=primary.db"),
        ("HEAD", "/snapshot?path=primary.db"),
        ("GET", "/nothing"),
        ("PUT", "/stream"),
        ("GET", "/healthz/"),
        ("GET", "//healthz"),
        ("GET", "/stream?path=/healthz"),
    ] {
        for wrong in [None, Some("Bearer wrong"), Some("Basic d3Jvbmc6d3Jvbmc=")] {
            assert_eq!(status_of(&url, method, target, wrong), 401, "{method} {target} with {wrong:?}");
        }
        assert_ne!(status_of(&url, method, target, Some(&bearer)), 401, "{method} {target}");
    }
    let refused = get(&url, "/stream?path=primary.db", &[]);
    assert_eq!(refused.header("WWW-Authenticate"), Some("Bearer realm=\"litestream\""));
    assert_eq!(refused.text(), "A token is required\n");
    assert_eq!(get(&url, "/healthz", &[]).status, 200);
}

#[test]
fn a_client_that_is_still_sending_sees_that_it_is_refused() {
    let temp = Temp::new();
    let (_primary, url) = serving_with(&temp.path("primary.db"), &token_option(SECRET));
    let database = temp.path("large.db");
    let mut large = Shell::open(&database);
    large.run(NEW);
    large.run("WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 300) INSERT INTO t(x) SELECT zeroblob(1000000) FROM i");
    let error = large.refused(&format!("SELECT litestream_verify('{url}')"));
    assert!(error.contains("401 Unauthorized: it asks for a token"), "{error}");
}

#[test]
fn a_client_shows_its_token_from_an_option_a_file_the_url_or_the_environment_in_that_order() {
    let temp = Temp::new();
    let (mut primary, url) = serving_with(&temp.path("primary.db"), &token_option(SECRET));
    fs::write(temp.path("right"), format!("# the one that counts\n\n{SECRET}\n")).unwrap();
    let (right, wrong) = (with_login(&url, SECRET), with_login(&url, "wrong"));
    let file = file_option(&temp.path("right"));
    let cases = [
        ("", url.clone(), token_option(SECRET), true),
        ("", url.clone(), file.clone(), true),
        ("", right.clone(), "{}".to_string(), true),
        ("", with_login(&url, &format!("anybody:{SECRET}")), "{}".to_string(), true),
        ("", with_login(&url, &format!("{SECRET}:")), "{}".to_string(), true),
        (SECRET, url.clone(), "{}".to_string(), true),
        ("wrong", wrong.clone(), token_option(SECRET), true),
        ("wrong", wrong.clone(), file, true),
        ("wrong", right.clone(), "{}".to_string(), true),
        (SECRET, right, token_option("wrong"), false),
        (SECRET, wrong, "{}".to_string(), false),
        ("wrong", url.clone(), "{}".to_string(), false),
    ];
    for (n, (environment, url, options, expected)) in cases.into_iter().enumerate() {
        let database = temp.path(&format!("replica-{n}.db"));
        let mut replica = match environment {
            "" => Shell::open(&database),
            token => with_environment(&database, token),
        };
        let what = format!("environment '{environment}', {url}, {options}");
        let verify = format!("SELECT litestream_verify('{url}', '{options}') ->> 'equal'");
        for call in ["pull", "follow"] {
            match replica.answer(&format!("SELECT litestream_{call}('{url}', '{options}')")) {
                Ok(_) => assert!(expected, "{what}"),
                Err(error) => assert!(!expected && error.contains("401 Unauthorized"), "{what}: {error}"),
            }
        }
        match expected {
            true => {
                primary.run("INSERT INTO t(x) VALUES ('more')");
                catch_up(&mut primary, &mut replica);
                assert_eq!(replica.ask(&verify), "1", "{what}");
                assert_eq!(replica.ask("SELECT litestream_verify() ->> 'equal'"), "1", "{what}");
            }
            false => assert_eq!(replica.ask("SELECT count(*) FROM sqlite_schema"), "0", "{what}"),
        }
    }
    let mut alone = Shell::open(&temp.path("replica-0.db"));
    let error = alone.refused("SELECT litestream_verify()");
    assert!(error.contains("401 Unauthorized: it asks for a token"), "{error}");
    assert_eq!(alone.ask(&format!("SELECT litestream_verify(NULL, '{}') ->> 'equal'", token_option(SECRET))), "1");
}

#[test]
fn tokens_are_changed_without_a_gap_and_an_old_one_ends_what_it_began() {
    let temp = Temp::new();
    let (tokens, shown) = (temp.path("tokens"), temp.path("token"));
    fs::write(&tokens, format!("{SECRET}\n")).unwrap();
    fs::write(&shown, SECRET).unwrap();
    let (mut primary, url) = serving_with(&temp.path("primary.db"), &file_option(&tokens));
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_follow('{url}', '{}')", file_option(&shown)));
    let asked = |token: &str| status_of(&url, "GET", "/stream?path=primary.db", Some(&format!("Bearer {token}")));

    fs::write(&tokens, format!("{SECRET}\n{OTHER}\n")).unwrap();
    assert_eq!((asked(SECRET), asked(OTHER)), (200, 200));
    let reconnects = replica.ask("SELECT reconnects FROM litestream_status");
    primary.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut primary, &mut replica);
    assert_eq!(replica.ask("SELECT reconnects FROM litestream_status"), reconnects, "nothing was disturbed");

    fs::write(&tokens, format!("{OTHER}\n")).unwrap();
    assert_eq!((asked(SECRET), asked(OTHER)), (401, 200));
    until("the stream that the old token began is over, and the replica says why there is no other", || {
        let row = replica.ask("SELECT state, reason FROM litestream_status");
        let says = row.starts_with("stalled|") && row.contains("401 Unauthorized: it does not take the token");
        if says { Ok(()) } else { Err(row) }
    });
    fs::write(&shown, OTHER).unwrap();
    primary.run("INSERT INTO t(x) VALUES ('three')");
    catch_up(&mut primary, &mut replica);
    assert_eq!(replica.ask("SELECT state FROM litestream_status"), "streaming");

    for nonsense in ["", "# none\n", "two words\n"] {
        fs::write(&tokens, nonsense).unwrap();
        assert_eq!((asked(SECRET), asked(OTHER)), (401, 200), "{nonsense:?} counts for nothing");
    }
    fs::remove_file(&tokens).unwrap();
    assert_eq!((asked(SECRET), asked(OTHER)), (401, 200), "no file counts for nothing");
}

#[test]
fn an_empty_token_is_an_error_wherever_it_comes_from() {
    let temp = Temp::new();
    let (primary, url) = serving_with(&temp.path("primary.db"), &token_option(SECRET));
    fs::write(temp.path("empty"), "\n# none\n").unwrap();
    let options = [
        token_option(""),
        "{\"token\": []}".to_string(),
        "{\"token\": [\"\"]}".to_string(),
        format!("{{\"token\": [\"{SECRET}\", \"\"]}}"),
        token_option("two words"),
        "{\"token\": null}".to_string(),
        file_option(&temp.path("empty")),
        file_option(&temp.path("missing")),
        "{\"token_file\": \"\"}".to_string(),
    ];
    let mut shell = Shell::open(&temp.path("app.db"));
    shell.run(NEW);
    let mut replica = Shell::open(&temp.path("replica.db"));
    for options in &options {
        let serve = shell.refused(&format!("SELECT litestream_serve('127.0.0.1:0', '{options}')"));
        let pull = replica.refused(&format!("SELECT litestream_pull('{url}', '{options}')"));
        for error in [serve, pull] {
            assert!(
                error.contains("token") || error.contains("empty") || error.contains("missing"),
                "{options}: {error}"
            );
            assert!(!error.contains(SECRET), "{options}: {error}");
        }
    }
    replica.refused(&format!("SELECT litestream_pull('{}')", with_login(&url, "")));
    let mut set_but_empty = with_environment(&temp.path("app.db"), "");
    for call in [format!("litestream_pull('{url}')"), "litestream_serve('127.0.0.1:0')".to_string()] {
        let error = set_but_empty.refused(&format!("SELECT {call}"));
        assert!(error.contains("LITESTREAM_TOKEN: the token is empty"), "{call}: {error}");
    }
    drop(primary);
}

#[test]
fn a_relay_has_a_token_on_each_side() {
    let temp = Temp::new();
    let (mut origin, url) = serving_with(&temp.path("origin.db"), &token_option(SECRET));
    let mut relay = Shell::open(&temp.path("relay.db"));
    relay.run(&format!("SELECT litestream_follow('{url}', '{}')", token_option(SECRET)));
    let relayed = relay.ask(&format!("SELECT litestream_serve('127.0.0.1:0', '{}')", token_option(OTHER)));
    let mut leaf = Shell::open(&temp.path("leaf.db"));
    let error = leaf.refused(&format!("SELECT litestream_follow('{relayed}', '{}')", token_option(SECRET)));
    assert!(error.contains("401 Unauthorized"), "{error}");
    leaf.run(&format!("SELECT litestream_follow('{relayed}', '{}')", token_option(OTHER)));
    origin.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut origin, &mut leaf);
    assert_same_pages(&temp.path("origin.db"), &temp.path("leaf.db"));
}

#[test]
fn all_that_is_served_at_an_address_asks_for_the_same_tokens() {
    let temp = Temp::new();
    let (first, second) = (loaded(&temp.path("one.db")), loaded(&temp.path("two.db")));
    first.run(NEW);
    second.run(NEW);
    let both = format!("{{\"token\": [\"{SECRET}\", \"{OTHER}\"]}}");
    let at = address(&first.ask::<String>(&format!("SELECT litestream_serve('127.0.0.1:0', '{both}')"))).to_string();
    for options in [token_option(SECRET), token_option("s3cret-another")] {
        let error = second.refused(&format!("SELECT litestream_serve('{at}', '{options}')"));
        assert!(error.contains("option 'token' is another") && !error.contains("s3cret"), "{error}");
    }
    let turned = format!("{{\"token\": [\"{OTHER}\", \"{SECRET}\"]}}");
    for options in ["{}", &turned] {
        let url: String = second.ask(&format!("SELECT litestream_serve('{at}', '{options}')"));
        assert_eq!(status_of(&url, "GET", "/stream?path=two.db", None), 401);
        assert_eq!(status_of(&url, "GET", "/stream?path=two.db", Some(&format!("Bearer {OTHER}"))), 200);
        second.ask::<String>("SELECT litestream_stop()");
    }
}

/// A shell that logs everything into `log`.
fn logging(database: &Path, log: &Path) -> Shell {
    Shell::with(database, |command| {
        command.env("LITESTREAM_LOG", "trace").stderr(File::options().append(true).create(true).open(log).unwrap());
    })
}

#[test]
fn a_token_is_in_no_log_no_table_no_error_and_no_file() {
    let temp = Temp::new();
    let log = temp.path("log");
    let mut primary = logging(&temp.path("primary.db"), &log);
    primary.run(NEW);
    let both = format!("{{\"token\": [\"{SECRET}\", \"{OTHER}\"]}}");
    let url = primary.ask(&format!("SELECT litestream_serve('127.0.0.1:0', '{both}')"));
    let mut replica = logging(&temp.path("replica.db"), &log);
    let everything = "SELECT * FROM litestream_status; SELECT * FROM litestream_replicas";
    let mut said = Vec::new();
    // What a shell says of errors goes where its log goes.
    let mut errors = 0;
    let mut fails = |shell: &mut Shell, sql: String| {
        errors += 1;
        assert_eq!(shell.ask(&sql), "", "{sql} should have failed");
    };
    for login in [SECRET.to_string(), format!("user:{SECRET}")] {
        let followed = with_login(&url, &login);
        said.push(replica.ask(&format!("SELECT litestream_follow('{followed}')")));
        fails(&mut replica, format!("SELECT litestream_follow('{followed}', '{{\"timeout_ms\": 5}}')"));
        fails(&mut replica, format!("SELECT litestream_serve('{}')", address(&url)));
        said.extend([replica.ask(everything), primary.ask(everything), replica.ask("SELECT litestream_verify()")]);
        said.push(replica.ask("SELECT litestream_stop()"));
    }
    // Where the token is another, where nobody is, where the URL is wrong, and where the options are.
    let wrong = [
        (with_login(&url, "s3cret-wrong"), "{}".to_string()),
        (with_login("http://127.0.0.1:1/primary.db", SECRET), "{}".to_string()),
        (with_login("http://127.0.0.1:x/primary.db", SECRET), "{}".to_string()),
        (with_login("http://127.0.0.1:1/prim%ary.db", SECRET), "{}".to_string()),
        (with_login("ftp://127.0.0.1:1/primary.db", SECRET), "{}".to_string()),
        (with_login(&url, &format!("{SECRET}%")), "{}".to_string()),
        (with_login(&url, &format!("{SECRET} ")), "{}".to_string()),
        (url.clone(), token_option(&format!("{SECRET} "))),
        (url.clone(), format!("{{\"token\": [\"{SECRET}\"]}}")),
        (url.clone(), format!("{{\"token\": {{\"{SECRET}\": 1}}}}")),
        (url.clone(), format!("{{\"token\": \"{SECRET}\"")),
        (url.clone(), format!("{{\"token\": \"{SECRET}\", \"token_file\": \"x\"}}")),
        (url.clone(), token_option("s3cret-wrong")),
    ];
    for (url, options) in &wrong {
        fails(&mut replica, format!("SELECT litestream_pull('{url}', '{options}')"));
        fails(&mut replica, format!("SELECT litestream_verify('{url}', '{options}')"));
    }
    let address = address(&url);
    for options in
        [token_option("s3cret two"), format!("{{\"token\": [7, \"{SECRET}\"]}}"), token_option("s3cret-else")]
    {
        fails(&mut primary, format!("SELECT litestream_serve('{address}', '{options}')"));
    }
    said.push(primary.ask(everything));
    drop((primary, replica));
    let logged = fs::read_to_string(&log).unwrap();
    assert_eq!(logged.lines().filter(|line| line.starts_with("Runtime error")).count(), errors, "{logged}");
    said.push(logged);
    for folder in ["primary.db-litestream", "replica.db-litestream"] {
        for entry in fs::read_dir(temp.path(folder)).unwrap() {
            said.push(String::from_utf8_lossy(&fs::read(entry.unwrap().path()).unwrap()).into_owned());
        }
    }
    for (n, text) in said.iter().enumerate() {
        for secret in ["s3cret", "0ther", "czNjcmV0"] {
            assert!(!text.contains(secret), "number {n} holds a secret: {text}");
        }
    }
    assert!(said.iter().any(|text| text.contains("info litestream: serving")), "the log was looked at");
}

#[test]
fn a_token_that_goes_in_the_clear_is_warned_of() {
    let temp = Temp::new();
    let log = temp.path("log");
    let (_primary, url) = serving_with(&temp.path("primary.db"), &token_option(SECRET));
    let mut replica = logging(&temp.path("replica.db"), &log);
    // Another name for the loopback address, which nobody has to know as one.
    let elsewhere = url.replace("127.0.0.1", "127.1");
    replica.run(&format!("SELECT litestream_follow('{elsewhere}', '{}')", token_option(SECRET)));
    let row = replica.ask("SELECT state, reason FROM litestream_status");
    assert!(row.starts_with("streaming|") && row.contains("in the clear") && row.contains("https"), "{row}");
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.lines().any(|line| line.starts_with("warn ") && line.contains("in the clear")), "{said}");
    replica.run("SELECT litestream_stop()");
    let options = format!("{{\"overwrite\": true, \"token\": \"{SECRET}\"}}");
    replica.run(&format!("SELECT litestream_follow('{url}', '{options}')"));
    assert_eq!(replica.ask("SELECT reason IS NULL FROM litestream_status"), "1", "on one machine nobody is on the way");
}

#[test]
fn a_name_that_strangers_can_give_this_machine_is_not_answered_without_a_token() {
    let temp = Temp::new();
    let ask = |url: &str, host: &str| {
        let socket = std::net::TcpStream::connect(address(url)).unwrap();
        let head = format!("GET /stream?path=app.db HTTP/1.1\r\nHost: {host}\r\n\r\n");
        raw(socket, head.as_bytes())
    };
    for (options, expected) in
        [("{}".to_string(), "421"), ("{\"insecure\": true}".to_string(), "200"), (token_option(SECRET), "401")]
    {
        let (_primary, url) = serving_with(&temp.folder(expected).join("app.db"), &options);
        let answer = ask(&url, "rebound.example.org");
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{options}: {answer}");
        if expected == "421" {
            assert!(ask(&url, "localhost:9090").starts_with("HTTP/1.1 200 "));
        }
    }
}

/// What a server sends first in answer to `bytes`.
fn raw(mut socket: std::net::TcpStream, bytes: &[u8]) -> String {
    use std::io::{Read, Write};
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.write_all(bytes).unwrap();
    let mut answer = vec![0; 4096];
    let n = socket.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..n]).into_owned()
}

#[test]
fn a_path_leads_nowhere_but_to_what_is_served() {
    let temp = Temp::new();
    let database = temp.folder("inner folder").join("app.db");
    let (_primary, url) = serving(&database);
    let secret = temp.path("secret.db");
    plain(&secret).run("CREATE TABLE t(x)");
    let shown = temp.path("").display().to_string();
    let folder = temp.path("inner folder").display().to_string().replace(' ', "%20");
    let names = [
        format!("{}", secret.display()),
        format!("{folder}/../secret.db"),
        format!("{folder}/./app.db"),
        format!("{folder}//app.db"),
        format!("{folder}/app.db-wal"),
        format!("{folder}/app.db-litestream/lock"),
        folder.clone(),
        "../secret.db".to_string(),
        "..%2fsecret.db".to_string(),
        "%2e%2e/secret.db".to_string(),
        "..%5csecret.db".to_string(),
        "app.db%00".to_string(),
        "app.db%00.txt".to_string(),
        "app.db-wal".to_string(),
        "app.db-shm".to_string(),
        "file:app.db".to_string(),
        "APP.DB".to_string(),
        "/etc/passwd".to_string(),
        "/".to_string(),
        ".".to_string(),
        "*".to_string(),
        "%25".to_string(),
        "x".repeat(8000),
    ];
    for name in &names {
        for method in ["GET", "POST"] {
            let headers = [VERSION_2, ("Content-Length", "0")];
            let answer = request(method, &url, &format!("/stream?path={name}&page_size=4096"), &headers);
            assert_eq!((answer.status, answer.text().as_str()), (404, "Database not found\n"), "{method} {name}");
        }
        let snapshot = get(&url, &format!("/snapshot?path={name}"), &[]);
        assert_eq!((snapshot.status, snapshot.text().as_str()), (404, "Database not found\n"), "snapshot {name}");
        let verify = request("POST", &url, &format!("/verify?path={name}&page_size=4096"), &[("Content-Length", "0")]);
        assert_eq!((verify.status, verify.text().as_str()), (404, "Database not found\n"), "verify {name}");
    }
    for target in [
        "/..",
        "/../secret.db",
        "/%2e%2e/secret.db",
        "/app.db",
        "/stream/../secret.db",
        "/stream/app.db",
        "//etc/passwd",
    ] {
        let answer = get(&url, target, &[]);
        let (status, text) = (answer.status, answer.text());
        assert!(status == 404 && !text.contains(&shown), "{target}: {status} {text}");
    }
}

#[test]
fn an_error_names_the_database_and_not_its_folder() {
    let temp = Temp::new();
    let path = temp.folder("inner").join("app.db");
    let disk = Disk::of(&path);
    let primary = disk.open();
    primary.run(NEW);
    let url: String = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
    disk.fail(Fault { call: Call::Read, nth: 0, lasting: true, short: false });
    let socket = std::net::TcpStream::connect(address(&url)).unwrap();
    let head =
        "POST /verify?path=app.db&page_size=4096 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\n12345678";
    let answer = raw(socket, head.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("app.db"), "{answer}");
    let mut stream = get(&url, "/stream?path=app.db", &[VERSION_2]);
    let last = std::iter::from_fn(|| stream::Record::read(&mut stream)).find(|record| record.kind == stream::ERROR);
    let text = String::from_utf8_lossy(&last.expect("why it ends").payload).into_owned();
    assert!(text.contains("app.db"), "{text}");
    for said in [answer, text] {
        assert!(!said.contains("inner") && !said.contains(&*temp.path("").to_string_lossy()), "{said}");
    }
    disk.heal();
}
