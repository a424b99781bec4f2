//! Counts the instructions of the hot paths, and holds them against those in `benches/counts.txt`: `make counts`.
//!
//! Times differ from run to run and from machine to machine; how many instructions the same work takes hardly does. Valgrind counts them,
//! on a processor that it makes up: code that looks what the processor can, as that of the checksums does, finds the same on every
//! machine with AVX2. The path is run in a process of its own for some rounds, and for twice as many: the difference is what the rounds
//! take, without what comes before and after.
//!
//! What a path takes depends on the compiler, so a bound is generous: it finds what is done twice, not what is done a little slower.
#![allow(unsafe_code, missing_docs, reason = "SQLite's interface is C; nobody uses this as a library")]

mod counted;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use counted::{ALL, Counted, Result};

/// As many instructions as were kept, times this, are too many.
const BOUND: f64 = 1.5;
/// The option that has this program run one path: `--only NAME ROUNDS`.
const ONLY: &str = "--only";

fn main() -> ExitCode {
    // cargo bench adds this one to every bench target.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => compare(false),
        ["--update"] => compare(true),
        [ONLY, name, rounds] => run(name, rounds),
        _ => Err(format!("usage: counts [--update | {ONLY} NAME ROUNDS]").into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("counts: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one path, for valgrind to count.
fn run(name: &str, rounds: &str) -> Result<()> {
    let path = ALL.iter().find(|path| path.name == name).ok_or_else(|| format!("no path is called {name}"))?;
    (path.run)(rounds.parse()?)
}

/// Counts all paths, prints what came beside what was kept, and fails where it is too much. Or keeps what came.
fn compare(update: bool) -> Result<()> {
    if cfg!(not(target_arch = "x86_64")) {
        println!("Left out: what is kept was counted on x86-64.");
        return Ok(());
    }
    let (file, mut kept) = (kept_in(), BTreeMap::new());
    if !update {
        kept = read(&file)?;
    }
    println!("{:12} {:>12} {:>12} {:>7}  a round", "path", "kept", "counted", "ratio");
    let (mut text, mut wrong) = (String::from(HEAD), Vec::new());
    for path in ALL {
        let now = count(path)?;
        text += &format!("{} {now}\n", path.name);
        let before = kept.remove(path.name).unwrap_or(now);
        let ratio = now as f64 / before as f64;
        println!("{:12} {before:>12} {now:>12} {ratio:>7.2}  {}", path.name, path.round);
        if ratio > BOUND {
            wrong.push(format!("{} takes {ratio:.2} times the instructions that it took", path.name));
        } else if ratio < 1.0 / BOUND {
            println!("  far fewer than what is kept: `make counts UPDATE=1` keeps that");
        }
    }
    if update {
        return Ok(std::fs::write(&file, text)?);
    }
    wrong.extend(kept.into_keys().map(|name| format!("{name} is kept and not counted")));
    match wrong.is_empty() {
        true => Ok(()),
        false => {
            Err(format!("{}; at most {BOUND} times. If it must be so: make counts UPDATE=1", wrong.join("; ")).into())
        }
    }
}

/// Instructions of one round.
fn count(path: &Counted) -> Result<u64> {
    let (once, twice) = (total(path, path.rounds)?, total(path, 2 * path.rounds)?);
    let rounds = twice.checked_sub(once).filter(|rounds| *rounds > 0);
    let rounds = rounds.ok_or_else(|| format!("{}: {once} instructions, and {twice} for twice as much", path.name))?;
    Ok(rounds / u64::from(path.rounds))
}

/// Instructions of a process that takes so many rounds.
fn total(path: &Counted, rounds: u32) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(std::env::current_exe()?);
    let output =
        valgrind.args([ONLY, path.name, &rounds.to_string()]).output().map_err(|e| format!("valgrind: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{}: {}\n{said}", path.name, output.status).into());
    }
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let (_, number) = collected.ok_or_else(|| format!("valgrind says no count:\n{said}"))?;
    Ok(number.trim().parse()?)
}

const HEAD: &str =
    "# Instructions of one round of each path, as valgrind counts them on x86-64. Written by `make counts UPDATE=1`.\n";

fn kept_in() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/counts.txt")
}

/// What was kept, by the name of the path.
fn read(file: &Path) -> Result<BTreeMap<String, u64>> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let entries = lines.map(|line| {
        let (name, count) = line.split_once(' ').ok_or_else(|| format!("{}: no count in {line:?}", file.display()))?;
        Ok((name.to_string(), count.parse().map_err(|e| format!("{}: {line:?}: {e}", file.display()))?))
    });
    entries.collect()
}
