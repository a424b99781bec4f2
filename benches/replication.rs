//! What replication costs, measured on real processes: `make bench`, or
//! `cargo bench --bench replication -- --only apply,lag --runs 3`.
//!
//! The program starts itself again as worker processes, each with one SQLite connection and, where it takes part in the
//! replication, the release build of the extension. Every figure stands beside that of the plain alternative, taken in
//! turn within the same run. `docs/benchmarks.md` describes the method; `--help` lists the options.

mod measure;
mod peers;
mod support;

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use peers::Peers;
use support::options::Options;
use support::scratch::Scratch;
use support::table::Table;
use support::{Result, machine, worker};

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    // cargo bench adds this one to every bench target.
    args.retain(|arg| arg != "--bench");
    if args.first().is_some_and(|arg| arg == worker::FLAG) {
        return worker::obey_until_closed(measure::obey);
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Takes the chosen measurements, prints the table, and keeps every figure.
fn run(args: &[String]) -> Result<()> {
    let Some(options) = Options::parse(args)? else {
        println!("{}\n\nMeasurements: {}", support::options::HELP, measure::ALL.map(|(name, _)| name).join(", "));
        return Ok(());
    };
    let scratch = Scratch::create(&options.dir)?;
    machine::pin_to_two_cores();
    let facts = machine::facts(&options);
    println!("{}\n", machine::describe(&facts, &options));
    let (table, peers) = (Table::default(), Peers::find(&options));
    let mut bench = measure::Bench { options, scratch, table, peers };
    let mut failed = Vec::new();
    for (name, take) in measure::ALL {
        if bench.options.wants(name) {
            eprintln!("bench: {name}");
            bench.table.measurement(name);
            if let Err(error) = take(&mut bench) {
                // What the others took is kept.
                eprintln!("bench: {name}: {error}");
                bench.table.left_out(name, &error.to_string());
                failed.push(name);
            }
        }
    }
    println!("{}", bench.table);
    println!("Load average at the end: {}", machine::load_average());
    keep(&bench, facts)?;
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
}

/// Writes all figures into the file that `--json` names.
fn keep(bench: &measure::Bench, facts: Value) -> Result<()> {
    let path = &bench.options.json;
    let taken = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let results = json!({
        "taken": taken, "machine": facts, "load_average_at_the_end": machine::load_average(),
        "versions": versions(bench)?, "options": bench.options.to_json(), "table": bench.table.to_json(),
    });
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, serde_json::to_string_pretty(&results)? + "\n")?;
    println!("All runs of every figure: {}", path.display());
    Ok(())
}

/// What was measured: the version of each program, by its name.
fn versions(bench: &measure::Bench) -> Result<Value> {
    let mut worker =
        worker::Worker::open_with(&bench.scratch.fresh("version")?.join("any.db"), &bench.options.library)?;
    let ours = worker.sql("SELECT litestream_version()")?;
    let mut versions = bench.peers.versions();
    versions.extend([("liblitestream".to_owned(), ours[0].clone()), ("SQLite".to_owned(), rusqlite::version().into())]);
    Ok(versions.into())
}
