//! A thousand followers of one primary: how long after COMMIT the last bytes of the commit's record arrive at each.
//!
//! The followers are one process that opens a socket for each, and of what comes looks at the headers of the records only, so that what is
//! measured is the primary. All of it shares two cores: writer and primary in one process, the clients, and the kernel, which copies
//! each commit a thousand times.

use serde_json::{Value, json};

use super::Bench;
use super::lag::COMMITS_A_SECOND;
use super::replication::{SCHEMA, address_of, serve_with};
use super::subscribers::{Arrivals, Subscribers};
use crate::support::stats::Percentiles;
use crate::support::table::{Goal, Unit, grouped};
use crate::support::worker::{Worker, number, text};
use crate::support::{Result, clock, db};

const STREAMS: u64 = 1_000;
/// Commits at the start of a run that are not counted.
const WARM_UP: usize = 20;
/// What p99 may be, in nanoseconds.
const GOAL: f64 = 50e6;

/// What the clients ask for.
#[derive(Clone, Copy, Debug)]
enum Compression {
    Lz4,
    None,
}

impl Compression {
    const ALL: [Compression; 2] = [Compression::Lz4, Compression::None];

    fn title(self) -> &'static str {
        match self {
            Compression::Lz4 => "compressed, as followers elsewhere ask for it",
            Compression::None => "not compressed",
        }
    }

    /// As in the header of the request.
    fn name(self) -> &'static str {
        match self {
            Compression::Lz4 => "lz4",
            Compression::None => "",
        }
    }
}

/// Figures, one value for each run.
#[derive(Default)]
struct Figures {
    lag: Percentiles,
    bytes_a_second: Vec<f64>,
    primary_cpu: Vec<f64>,
    clients_cpu: Vec<f64>,
    primary_bytes: Vec<f64>,
    connect_ns: Vec<f64>,
}

/// Takes the measurement.
pub fn take(bench: &mut Bench) -> Result<()> {
    allow_descriptors(4 * STREAMS)?;
    let mut figures: [Figures; 2] = Default::default();
    for _ in 0..bench.options.runs {
        for (compression, figures) in Compression::ALL.into_iter().zip(&mut figures) {
            run(bench, compression, figures)?;
        }
    }
    report(bench, &figures);
    Ok(())
}

fn run(bench: &Bench, compression: Compression, figures: &mut Figures) -> Result<()> {
    let folder = bench.scratch.fresh("fanout")?;
    let primary = folder.join("primary.db");
    db::open(&primary)?.execute_batch(SCHEMA)?;
    let most = 2 * STREAMS;
    let options = json!({"max_streams": most, "max_connections": most, "max_connections_per_address": most});
    let (mut server, url) = serve_with("127.0.0.1:0", &options, &primary, &bench.options.library)?;
    // A worker has a connection, which this one does not need.
    let mut clients = Worker::open(&folder.join("unused.db"))?;
    let idle = server.bytes("memory")?;

    let began = clock::monotonic_ns();
    let subscribe = json!({
        "do": "subscribe", "address": address_of(&url)?, "streams": STREAMS, "compression": compression.name(),
    });
    clients.ask(subscribe)?;
    figures.connect_ns.push((clock::monotonic_ns() - began) as f64);

    let cpu = [server.cpu_ns()?, clients.cpu_ns()?];
    let began = clock::monotonic_ns();
    let commits = COMMITS_A_SECOND * bench.options.seconds + WARM_UP as u64;
    let committed = server.ask(json!({"do": "commit and tell", "commits": commits}))?;
    let took = (clock::monotonic_ns() - began) as f64;
    figures.primary_cpu.push((server.cpu_ns()? - cpu[0]) / took);
    figures.clients_cpu.push((clients.cpu_ns()? - cpu[1]) / took);
    let arrived = clients.ask(json!({"do": "arrivals", "committed": committed, "skip": WARM_UP}))?;
    if number(&arrived, "lags")? != STREAMS * (commits - WARM_UP as u64) {
        return Err(format!("not every commit arrived at every client: {arrived}").into());
    }
    figures.lag.add_told(&arrived)?;
    figures.bytes_a_second.push(number(&arrived, "bytes")? as f64 / took * 1e9);
    figures.primary_bytes.push(server.bytes("peak")? - idle);
    clients.close()?;
    server.close()
}

fn report(bench: &mut Bench, figures: &[Figures; 2]) {
    let table = &mut bench.table;
    table.section(&format!(
        "{} followers of one primary, {COMMITS_A_SECOND} commits a second: from COMMIT until it has arrived, synchronous = {}",
        grouped(STREAMS as f64),
        db::SYNCHRONOUS,
    ));
    for (compression, figures) in Compression::ALL.into_iter().zip(figures) {
        table.line(&format!("{}: p50", compression.title()), &figures.lag.p50, Unit::MillisOfNanos);
        table.goal("– p99", &figures.lag.p99, Unit::MillisOfNanos, Goal::AtMost(GOAL));
        table.line("– longest", &figures.lag.max, Unit::MillisOfNanos);
        table.line("– sent to all of them together, a second", &figures.bytes_a_second, Unit::MiB);
        table.line("– share of a core that the primary takes, and its writer", &figures.primary_cpu, Unit::Percent);
        table.line("– share of a core that the clients take", &figures.clients_cpu, Unit::Percent);
        table.line("– peak memory of the primary above that with no client", &figures.primary_bytes, Unit::MiB);
        table.line("– until all are connected and have the database", &figures.connect_ns, Unit::MillisOfNanos);
    }
}

/// Lets this process, and so all workers, have that many files open.
#[allow(unsafe_code)]
fn allow_descriptors(wanted: u64) -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit to write to, and the call keeps no reference to it.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    if failed != 0 || limit.rlim_max < wanted {
        return Err(format!("a process may have {} files open, at least {wanted} are needed", limit.rlim_max).into());
    }
    limit.rlim_cur = limit.rlim_cur.max(wanted);
    // SAFETY: `limit` is a valid rlimit.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

/// Worker: subscribes that many times, and answers when each stream has brought the database.
pub fn subscribe(request: &Value) -> Result<Value> {
    let (address, compression) = (text(request, "address")?, text(request, "compression")?);
    Subscribers::begin(&address, number(request, "streams")? as usize, &compression)?;
    Ok(json!({}))
}

/// Worker: waits until all that was committed has arrived at each, and sums up how long it took.
pub fn arrivals(request: &Value) -> Result<Value> {
    let committed: Vec<(String, u64)> = serde_json::from_value(request["committed"].clone())?;
    let committed: Result<Vec<_>> = committed.iter().map(|(at, ns)| Ok((position(at)?, *ns))).collect();
    let Arrivals { lags, bytes } = Subscribers::end(&committed?, number(request, "skip")? as usize)?;
    let percentile = |quantile| crate::support::stats::percentile(&lags, quantile);
    Ok(json!({
        "lags": lags.len(), "bytes": bytes, "p50_ns": percentile(0.5), "p99_ns": percentile(0.99),
        "max_ns": percentile(1.0),
    }))
}

/// Index and offset of a position as text, `generation/index:offset`.
fn position(text: &str) -> Result<(u64, u64)> {
    let parts = text.split_once('/').and_then(|(_, rest)| rest.split_once(':'));
    let (index, offset) = parts.ok_or_else(|| format!("{text} is no position"))?;
    Ok((u64::from_str_radix(index, 16)?, u64::from_str_radix(offset, 16)?))
}
