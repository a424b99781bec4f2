//! Options from arguments (`--runs 3`) or the environment (`BENCH_RUNS=3`); arguments win.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Result;

/// The text of `--help`.
pub const HELP: &str = "\
Options (each also as a variable in the environment, for example BENCH_RUNS=3):
  --only NAMES         of the measurements, with commas: see below                    [all]
  --runs N             runs of each measurement; the table shows the median           [5, short: 1]
  --size BYTES         database of snapshot, catchup, throttled and map, with K, M
                       or G; growth has one of a tenth and one of ten times as much   [1G, short: 64M]
  --changes N          transactions while the replica of catchup is away              [100000, short: 5000]
  --spread PERCENT     share of the pages that they change                            [5]
  --seconds N          length of one run of what is measured over time                [5, short: 1]
  --transactions N     length of the recorded WAL of apply                            [20000, short: 2000]
  --short              the short form
  --dir PATH           where the databases go; on the kind of disk that is meant      [beside the build]
  --library PATH       the extension                                                  [target/release]
  --before PATH        another build of it, from before the page map, to compare with [none]
  --peers PATH         where benches/peers/setup put what is compared with            [bench/venv beside the build]
  --no-peers           leave out what has to be got first
  --json FILE          all figures with all of their runs                             [bench/results.json beside the build]";

/// What to measure, how much of it, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of the measurements to take; empty for all.
    pub only: Vec<String>,
    /// Runs of each measurement.
    pub runs: usize,
    /// Bytes of the database of snapshot, catchup and map.
    pub size: u64,
    /// Transactions while the replica is away.
    pub changes: u64,
    /// Percentage of the pages that they change.
    pub spread: u64,
    /// Seconds of one run of lag, commits or map.
    pub seconds: u64,
    /// Transactions in the WAL that is applied.
    pub transactions: u64,
    /// Folder for the databases.
    pub dir: PathBuf,
    /// The extension, without a worker ever guessing which build it loads.
    pub library: PathBuf,
    /// Another build of it, that map compares with.
    pub before: Option<PathBuf>,
    /// Where the peers are; none to leave them out.
    pub peers: Option<PathBuf>,
    /// Where the figures go, all runs of each.
    pub json: PathBuf,
}

impl Options {
    /// Reads arguments and environment; `None` when help was asked for.
    pub fn parse(args: &[String]) -> Result<Option<Options>> {
        let given = Given::collect(args)?;
        if given.text("help").is_some() {
            return Ok(None);
        }
        let short = given.text("short").is_some();
        let options = Options {
            only: given.text("only").map(|names| names.split(',').map(str::to_owned).collect()).unwrap_or_default(),
            runs: given.number("runs", if short { 1 } else { 5 })? as usize,
            size: given.number("size", if short { 64 << 20 } else { 1 << 30 })?,
            changes: given.number("changes", if short { 5_000 } else { 100_000 })?,
            spread: given.number("spread", 5)?.min(100),
            seconds: given.number("seconds", if short { 1 } else { 5 })?,
            transactions: given.number("transactions", if short { 2_000 } else { 20_000 })?,
            dir: given.text("dir").map_or_else(default_dir, |path| Ok(path.into()))?,
            library: given.text("library").map_or_else(default_library, |path| Ok(path.into()))?,
            before: given.text("before").map(PathBuf::from),
            peers: match given.text("no-peers") {
                Some(_) => None,
                None => Some(given.text("peers").map_or_else(default_peers, |path| Ok(path.into()))?),
            },
            json: given.text("json").map_or_else(default_json, |path| Ok(path.into()))?,
        };
        if !options.library.is_file() {
            return Err(format!("no library at {}: run make build", options.library.display()).into());
        }
        Ok(Some(options))
    }

    /// How much is measured, as the results keep it.
    pub fn to_json(&self) -> Value {
        json!({
            "only": self.only, "runs": self.runs, "size": self.size, "changes": self.changes, "spread": self.spread,
            "seconds": self.seconds, "transactions": self.transactions, "peers": self.peers.is_some(),
        })
    }

    /// Whether the measurement of this name is asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

const NAMES: [&str; 15] = [
    "help",
    "only",
    "runs",
    "size",
    "changes",
    "spread",
    "seconds",
    "transactions",
    "short",
    "dir",
    "library",
    "before",
    "peers",
    "no-peers",
    "json",
];
const SWITCHES: [&str; 3] = ["help", "short", "no-peers"];

/// Names and values as they were given.
struct Given(Vec<(String, String)>);

impl Given {
    fn collect(args: &[String]) -> Result<Given> {
        let mut given = Vec::new();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let name = arg.strip_prefix("--").filter(|name| NAMES.contains(name));
            let name = name.ok_or_else(|| format!("unknown option {arg}\n{HELP}"))?;
            let value = match SWITCHES.contains(&name) {
                true => "1",
                false => args.next().ok_or_else(|| format!("{arg} needs a value"))?,
            };
            given.push((name.to_owned(), value.to_owned()));
        }
        for name in NAMES {
            if let Ok(value) = std::env::var(format!("BENCH_{}", name.to_uppercase().replace('-', "_"))) {
                given.push((name.to_owned(), value));
            }
        }
        Ok(Given(given))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &str, default: u64) -> Result<u64> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let (digits, unit) = match text.chars().last() {
            Some('K' | 'k') => (&text[..text.len() - 1], 1 << 10),
            Some('M' | 'm') => (&text[..text.len() - 1], 1 << 20),
            Some('G' | 'g') => (&text[..text.len() - 1], 1 << 30),
            _ => (text, 1),
        };
        let number: u64 = digits.parse().map_err(|_| format!("--{name} {text}: not a number"))?;
        match number.checked_mul(unit) {
            Some(number) if number > 0 => Ok(number),
            _ => Err(format!("--{name} {text}: out of range").into()),
        }
    }
}

/// `target/release`: the folder above the one that cargo puts bench programs into.
fn build_folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.parent().and_then(|deps| deps.parent()).ok_or("the bench program lies in no folder")?;
    Ok(folder.to_owned())
}

fn default_dir() -> Result<PathBuf> {
    Ok(build_folder()?.join("bench-scratch"))
}

/// `target/bench`: what is kept of a run, and what it takes.
fn kept_folder() -> Result<PathBuf> {
    Ok(build_folder()?.with_file_name("bench"))
}

fn default_peers() -> Result<PathBuf> {
    Ok(kept_folder()?.join("venv"))
}

fn default_json() -> Result<PathBuf> {
    Ok(kept_folder()?.join("results.json"))
}

fn default_library() -> Result<PathBuf> {
    let name = format!("{}litestream{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    Ok(build_folder()?.join(name))
}
