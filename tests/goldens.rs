//! The SQL goldens: each `sql/NAME.sql` is given to the `sqlite3` shell of the system in an empty folder with the library
//! in it, and must say what `sql/NAME.expected` holds. `make goldens` writes those files anew, for a look at the diff.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Temp, finish, library};

#[test]
fn the_shell_says_what_the_goldens_hold() {
    let refresh = std::env::var_os("UPDATE_GOLDENS").is_some();
    let goldens = goldens();
    assert!(!goldens.is_empty(), "no goldens under sql/");
    let mut complaints = Vec::new();
    for golden in goldens {
        let said = run(&golden);
        let expected = golden.with_extension("expected");
        if refresh {
            fs::write(&expected, &said).expect("writing a golden");
        } else if let Some(difference) = difference(&fs::read_to_string(&expected).unwrap_or_default(), &said) {
            complaints.push(format!("{}: {difference}", golden.display()));
        }
    }
    assert!(complaints.is_empty(), "\n{}\n`make goldens` writes them anew", complaints.join("\n"));
}

#[test]
fn no_expectation_is_without_its_golden() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    for entry in fs::read_dir(folder).expect("the folder of the goldens") {
        let path = entry.expect("an entry of the folder of the goldens").path();
        let extension = path.extension().and_then(|e| e.to_str());
        let known = path.is_dir() || matches!(extension, Some("sql" | "expected"));
        assert!(known && (extension != Some("expected") || path.with_extension("sql").exists()), "{}", path.display());
    }
}

fn goldens() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    let entries = fs::read_dir(folder).expect("the folder of the goldens");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry of the folder").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "sql"));
    paths.sort();
    paths
}

/// What the shell says to a golden: rows and errors in the order they came.
fn run(golden: &Path) -> String {
    let folder = Temp::new();
    let name = library().file_name().expect("the library's file name");
    symlink(library(), folder.path(&name.to_string_lossy())).expect("a link to the library");
    let said = folder.path("said");
    let output = File::create(&said).expect("a file for what the shell says");
    let mut command = Command::new("sqlite3");
    command
        .args(["-batch", "primary.db"])
        .current_dir(&folder)
        .env_remove("LITESTREAM_LOG")
        .stdin(File::open(golden).expect("a golden"))
        .stderr(output.try_clone().expect("a second handle of the file"))
        .stdout(Stdio::from(output));
    let mut shell = command.spawn().unwrap_or_else(|e| panic!("starting sqlite3 (Debian's package sqlite3): {e}"));
    let ended = finish(&mut shell);
    assert!(ended.code().is_some(), "{}: the shell was ended by {ended}", golden.display());
    let text = fs::read_to_string(&said).expect("what the shell said");
    let text = text.replace(&*folder.as_ref().to_string_lossy(), "DIR");
    let text = without_positions(&without_ports(&text));
    text.lines().map(|line| without_place(line).to_string() + "\n").collect()
}

/// The ports that the system picked, all called `PORT`.
fn without_ports(text: &str) -> String {
    let host = "127.0.0.1:";
    let mut parts = text.split(host);
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        let picked = part.len() - rest.len() >= 5;
        out += &format!("{host}{}", if picked { format!("PORT{rest}") } else { part.to_string() });
    }
    out
}

/// Positions, which begin with a random generation, all called `POSITION`.
fn without_positions(text: &str) -> String {
    let mut out = text.to_string();
    while let Some(at) = (0..out.len()).find(|at| out.get(*at..at + 50).is_some_and(is_position)) {
        out.replace_range(at..at + 50, "POSITION");
    }
    out
}

fn is_position(text: &str) -> bool {
    text.bytes().enumerate().all(|(n, b)| match n {
        16 => b == b'/',
        33 => b == b':',
        _ => b.is_ascii_hexdigit(),
    })
}

/// An error without the line it arose in, which changes with every edit of a golden.
fn without_place(line: &str) -> &str {
    match line.split_once("error near line ").and_then(|(_, rest)| rest.split_once(": ")) {
        Some((number, error)) if number.bytes().all(|b| b.is_ascii_digit()) => error,
        _ => line,
    }
}

/// The first line where the two texts part.
fn difference(expected: &str, said: &str) -> Option<String> {
    let (mut left, mut right) = (expected.lines(), said.lines());
    for n in 1.. {
        match (left.next(), right.next()) {
            (None, None) => break,
            (a, b) if a == b => {}
            (a, b) => return Some(format!("line {n}\n  expected: {}\n  said:     {}", shown(a), shown(b))),
        }
    }
    None
}

fn shown(line: Option<&str>) -> &str {
    line.unwrap_or("(nothing more)")
}
