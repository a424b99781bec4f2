//! What replication costs, measured on real processes: `make bench`, or
//! `cargo bench --bench replication -- --only apply,lag --runs 3`.
//!
//! The program starts itself again as worker processes, each with one SQLite connection and, where it takes part in the
//! replication, the release build of the extension. Every figure stands beside that of the plain alternative, taken in
//! turn within the same run. `docs/benchmarks.md` describes the method; `--help` lists the options.

mod measure;
mod support;

use std::process::ExitCode;

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

/// Takes the chosen measurements and prints the table.
fn run(args: &[String]) -> Result<()> {
    let Some(options) = Options::parse(args)? else {
        println!("{}", support::options::HELP);
        return Ok(());
    };
    let scratch = Scratch::create(&options.dir)?;
    machine::pin_to_two_cores();
    println!("{}\n", machine::describe(&options));
    let mut bench = measure::Bench { options, scratch, table: Table::default() };
    for (name, take) in measure::ALL {
        if bench.options.wants(name) {
            take(&mut bench).map_err(|error| format!("{name}: {error}"))?;
        }
    }
    println!("{}", bench.table);
    println!("Load average at the end: {}", machine::load_average());
    Ok(())
}
