//! docs/guide.md, run as somebody runs it who reads it: each command as it stands there, in order, in a new folder, and what the page
//! shows is what came.
//!
//! | block | what is done with it |
//! |---|---|
//! | `sh` | run in the first terminal, until its end; it may fail only if what is shown is an error |
//! | `sh NAME` | run in another terminal, which goes on |
//! | `sh install` | not run: it takes the network and root. A Makefile with that target and the library of the tests stand in for it |
//! | `text` | what the command before it said |
//! | `text NAME` | waits until that terminal says so; where it begins with `^C`, Ctrl-C is typed first, and that is its end |
//!
//! In what is shown `...` stands for any text in a line, or for any lines. Ports are others here, so that tests can run beside each other.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Receiver;

use support::*;

/// What stands before the exit status of a block in the output of the first terminal.
const ENDED: &str = "--ended--";

/// The first terminal: a bash that is given one block after the other, and keeps its folder and its variables.
struct Bash {
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    place: Place,
}

impl Bash {
    fn start(place: Place) -> Bash {
        let mut command = place.at("bash");
        let process = command.args(["--noprofile", "--norc"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = process.unwrap();
        let mut input = process.stdin.take().unwrap();
        let lines = lines_of(process.stdout.take().unwrap());
        // A command that fails is noticed, wherever it stands in a block.
        writeln!(input, "exec 2>&1; set -o pipefail; trap 'failed=1' ERR").unwrap();
        Bash { process, input, lines, place }
    }

    /// Runs a block to its end. Gives what it said, and whether nothing in it failed.
    fn run(&mut self, text: &str) -> (String, bool) {
        let script = self.place.script(text);
        writeln!(self.input, "failed=0; source '{}' </dev/null; echo {ENDED} $failed", script.display()).unwrap();
        let mut said = String::new();
        loop {
            let line =
                self.lines.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("\n{text}goes on; it said:\n{said}"));
            if let Some(failed) = line.strip_prefix(ENDED) {
                return (said, failed.trim() == "0");
            }
            said += &line;
            said.push('\n');
        }
    }
}

impl Drop for Bash {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where it is run: a home of its own, and what stands for a repository in which the library was built.
#[derive(Clone)]
struct Place {
    home: PathBuf,
    repository: PathBuf,
}

impl Place {
    fn new(temp: &Temp) -> Place {
        let place = Place { home: temp.folder("home"), repository: temp.folder("repository") };
        let built = place.repository.join("target/release");
        fs::create_dir_all(&built).unwrap();
        std::os::unix::fs::symlink(library(), built.join("liblitestream.so")).unwrap();
        place
    }

    /// A command in that folder, with that home.
    fn at(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("HOME", &self.home).env("LC_ALL", "C").env("TERM", "dumb").env_remove("LITESTREAM_TOKEN");
        command.env_remove("LITESTREAM_LOG").current_dir(&self.repository);
        command
    }

    /// A file with commands.
    fn script(&self, text: &str) -> PathBuf {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = self.repository.join(format!("{number}.sh"));
        fs::write(&path, text).unwrap();
        path
    }
}

#[test]
fn every_command_of_the_guide_does_what_the_guide_shows() {
    let temp = Temp::new();
    let place = Place::new(&temp);
    let blocks = blocks(&with_free_ports(&guide()));
    let mut bash = Bash::start(place.clone());
    let mut terminals: HashMap<&str, Terminal> = HashMap::new();
    let (mut run, mut ended) = (0, 0);
    for (n, block) in blocks.iter().enumerate() {
        let info: Vec<&str> = block.info.iter().map(String::as_str).collect();
        let told = format!("docs/guide.md:{}", block.line);
        match info[..] {
            ["sh", "install"] => {}
            ["sh"] => {
                let shown = blocks.get(n + 1).filter(|next| next.info == ["text"]).map_or("", |next| &next.text);
                let (said, succeeded) = bash.run(&block.text);
                assert!(matches(shown, &said), "{told}:\n{}said:\n{said}and the guide shows:\n{shown}", block.text);
                assert_eq!(succeeded, !shown.starts_with("Error"), "{told} succeeded:\n{}{said}", block.text);
                run += 1;
            }
            ["sh", name] => {
                let terminal = Terminal::start(place.at("script"), &place.script(&block.text));
                assert!(terminals.insert(name, terminal).is_none(), "{told}: something runs in {name} already");
            }
            ["text"] => assert_eq!(blocks[n - 1].info, ["sh"], "{told}: stands under no command"),
            ["text", name] => {
                let mut terminal = terminals.remove(name).unwrap_or_else(|| panic!("{told}: nothing runs in {name}"));
                let last = block.text.starts_with("^C");
                if last {
                    terminal.interrupt();
                }
                let what = format!("{told}: the terminal {name} says\n{}", block.text);
                terminal.until_it_says(&what, |said| matches(&block.text, said));
                if last {
                    terminal.end();
                    ended += 1;
                } else {
                    terminals.insert(name, terminal);
                }
            }
            _ => panic!("{told}: a block of {info:?}, which nothing is done with"),
        }
    }
    assert!(terminals.is_empty(), "still running: {:?}", terminals.keys());
    assert!(run > 10 && ended > 4, "{run} blocks were run, {ended} terminals ended");
    assert_eq!(fs::read_dir(&place.home).unwrap().count(), 0, "the guide leaves nothing behind");
}

#[test]
fn what_the_guide_has_installed_is_what_its_commands_are() {
    let installs: Vec<_> = blocks(&guide()).into_iter().filter(|block| block.info == ["sh", "install"]).collect();
    let [install] = &installs[..] else { panic!("one block installs: {installs:?}") };
    let (apt, make) = install.text.split_once('\n').unwrap();
    assert_eq!(apt, "sudo apt-get install -y make sqlite3 openssl curl");
    assert_eq!(make, "make build\n");
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    assert!(makefile.contains("\nbuild: "), "the Makefile has the target");
    assert!(makefile.contains("/release/liblitestream.$("), "and leaves the library where the guide takes it");
}

#[test]
fn the_alerts_are_rules_about_metrics_that_there_are() {
    let path = root().join("docs/examples/alerts.yml");
    let rules = fs::read_to_string(&path).unwrap();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let names: BTreeSet<&str> = rules.split(|c: char| c != '_' && !c.is_ascii_lowercase()).collect();
    let names: Vec<_> = names.into_iter().filter(|name| name.starts_with("litestream_")).collect();
    assert!(names.len() > 4, "{names:?}");
    for name in names {
        assert!(readme.contains(&format!("`{name}`")), "README.md lists no metric {name}");
    }
    match Command::new("promtool").args(["check", "rules"]).arg(&path).output() {
        Ok(checked) => assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr)),
        Err(_) => println!("left out: there is no promtool here"),
    }
}

#[test]
fn three_dots_stand_for_text_in_a_line_or_for_lines_and_for_nothing_else() {
    for (shown, said) in
        [("", ""), ("a\n", "a\n"), ("a...c", "abc"), ("a...", "a"), (".../...", "1/2"), ("a\n...\nb", "a\nb")]
    {
        assert!(matches(shown, said), "{shown:?} stands for {said:?}");
    }
    assert!(matches("...\n", "a\nb\n") && matches("a\n...\nb", "a\n1\n2\nb\n"));
    for (shown, said) in
        [("", "a"), ("a", ""), ("a", "a\nb"), ("a...c", "ab"), ("a...b", "a\nb"), ("a..b", "axxb"), ("...a", "")]
    {
        assert!(!matches(shown, said), "{shown:?} does not stand for {said:?}");
    }
}

/// The page with other ports than those it names, which nobody has at the moment.
fn with_free_ports(page: &str) -> String {
    let held: Vec<_> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let free: Vec<_> = held.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    let (mut changed, mut rest) = (String::new(), page);
    while let Some((before, after)) = rest.split_once("909") {
        let (digit, after) = after.split_at(1);
        changed += &format!("{before}{}", free[digit.parse::<usize>().expect("a port from 9090 to 9093")]);
        rest = after;
    }
    changed + rest
}

fn guide() -> String {
    fs::read_to_string(root().join("docs/guide.md")).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
