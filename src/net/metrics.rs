//! `GET /metrics`: what was counted, in the text format of Prometheus
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! Names and labels are those of Litestream where the meaning is equal, so that its dashboards work. Some of these are counters
//! without `_total` at their end, which OpenMetrics does not allow; hence the older format, and samples of counters written as those
//! of gauges are: without anything added to the name.
//!
//! Nothing is kept for this: each scrape asks for what there is.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::report::{Part, Reporter, Row, STATES, state_of};
use super::routes::{Refusal, refuse};
use crate::primary::{Counts, Effort, Sending};
use crate::sqlite;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric: its name, what it says, its type, and its samples for one database.
struct Family(&'static str, &'static str, MetricType, fn(&Row) -> Vec<Sample>);

/// Labels besides `db`, and a value.
type Sample = (Vec<(&'static str, String)>, f64);

/// Those that are about the file. A database that is served and followed at once has them once.
const OF_FILES: [Family; 9] = [
    Family("litestream_db_size", "Size of the database file in bytes", MetricType::Gauge, |row| one(row.db_bytes)),
    Family("litestream_wal_size", "Size of the WAL file in bytes", MetricType::Gauge, |row| one(row.wal_bytes)),
    Family("litestream_total_wal_bytes", "Bytes of the WAL seen", MetricType::Counter, |row| {
        served(row, |counts| counts.wal_bytes)
    }),
    Family("litestream_sync_count", "Looks at the WAL for commits", MetricType::Counter, |row| {
        served(row, |counts| counts.syncs.count)
    }),
    Family("litestream_sync_error_count", "Looks at the WAL that failed", MetricType::Counter, |row| {
        served(row, |counts| counts.syncs.errors)
    }),
    Family("litestream_sync_seconds", "Time spent looking at the WAL, in seconds", MetricType::Counter, |row| {
        row.counts().map(|counts| (Vec::new(), counts.syncs.seconds)).into_iter().collect()
    }),
    Family("litestream_checkpoint_count", "Checkpoints run by this library", MetricType::Counter, |row| {
        checkpoints(row, |effort| effort.count as f64)
    }),
    Family("litestream_checkpoint_error_count", "Checkpoints that failed", MetricType::Counter, |row| {
        checkpoints(row, |effort| effort.errors as f64)
    }),
    Family("litestream_checkpoint_seconds", "Time spent in checkpoints, in seconds", MetricType::Counter, |row| {
        checkpoints(row, |effort| effort.seconds)
    }),
];

/// Those that have the label `role` as well.
const OF_ROLES: [Family; 20] = [
    Family("litestream_state", "1 for the state that the database is in, 0 for the others", MetricType::Gauge, |row| {
        let is = |state: &str| f64::from(u8::from(state == row.state));
        STATES.map(|state| (vec![("state", state.replace(' ', "_"))], is(state))).into()
    }),
    Family("litestream_position_info", "The generation of the position", MetricType::Gauge, |row| {
        of(row.position, |position| (vec![("generation", position.generation.to_string())], 1.0))
    }),
    Family("litestream_position_index", "Index of the position: restarts of the WAL", MetricType::Gauge, |row| {
        of(row.position, |position| (Vec::new(), position.index as f64))
    }),
    Family("litestream_position_offset_bytes", "Offset of the position in the WAL", MetricType::Gauge, |row| {
        of(row.position, |position| (Vec::new(), position.offset as f64))
    }),
    Family(
        "litestream_commits_total",
        "Commits seen by a primary, or applied to a replica",
        MetricType::Counter,
        |row| one(row.commits),
    ),
    Family(
        "litestream_connections_total",
        "Streams opened, to replicas or to the upstream",
        MetricType::Counter,
        |row| one(row.connections),
    ),
    Family(
        "litestream_verification_failures_total",
        "How often pages were found not to be what they should be",
        MetricType::Counter,
        |row| one(row.failures),
    ),
    Family("litestream_last_error_timestamp_seconds", "When something last went wrong", MetricType::Gauge, |row| {
        of(row.last_error.as_ref(), |error| (Vec::new(), error.at as f64 / 1000.0))
    }),
    Family("litestream_catch_up_ratio", "How far a catch-up under way is, from 0 to 1", MetricType::Gauge, |row| {
        of(row.headway, |headway| (Vec::new(), headway.percent() / 100.0))
    }),
    Family("litestream_replicas_connected", "Replicas connected, by what they are sent", MetricType::Gauge, |row| {
        let count = |state| row.replicas().iter().filter(|replica| state_of(replica) == state).count() as f64;
        let states = ["live", "catching up"].into_iter().filter(|_| row.counts().is_some());
        states.map(|state| (vec![("state", state.replace(' ', "_"))], count(state))).collect()
    }),
    Family(
        "litestream_replicas_lag_seconds",
        "Age of the oldest commit that was not sent to each replica connected",
        MetricType::Gauge,
        |row| {
            let largest = row.replicas().iter().map(|replica| replica.lag).fold(0.0, f64::max);
            row.counts().map(|_| (Vec::new(), largest)).into_iter().collect()
        },
    ),
    Family("litestream_sent_bytes_total", "Bytes sent, by what for", MetricType::Counter, |row| sent(row, |(_, b)| b)),
    Family("litestream_sent_pages_total", "Pages sent, by what for", MetricType::Counter, |row| sent(row, |(p, _)| p)),
    Family("litestream_snapshots_total", "Copies of the database begun", MetricType::Counter, |row| {
        served(row, |counts| counts.snapshots)
    }),
    Family("litestream_lag_seconds", "Upper bound of how old a replica is", MetricType::Gauge, |row| {
        of(row.lag, |lag| (Vec::new(), lag))
    }),
    Family("litestream_received_bytes_total", "Bytes received by a replica", MetricType::Counter, |row| {
        followed(row, |_, _, _| row.bytes)
    }),
    Family("litestream_received_pages_total", "Pages applied to a replica", MetricType::Counter, |row| {
        followed(row, |_, _, _| row.pages)
    }),
    Family("litestream_reconnects_total", "How often the upstream was lost", MetricType::Counter, |row| {
        followed(row, |reconnects, _, _| reconnects)
    }),
    Family("litestream_heals_total", "How often what a replica holds was mended", MetricType::Counter, |row| {
        followed(row, |_, heals, _| heals)
    }),
    Family(
        "litestream_audited_pages_total",
        "Pages of the file of a replica that the audit read and compared",
        MetricType::Counter,
        |row| followed(row, |_, _, audited| audited),
    ),
];

/// All metrics of the process.
pub async fn metrics(State(reporter): State<Arc<Reporter>>) -> Result<Response, Refusal> {
    let text = encode(reporter.rows().await?);
    let text = text.map_err(|_| refuse(StatusCode::INTERNAL_SERVER_ERROR, "Internal error"))?;
    Ok(([(CONTENT_TYPE, TEXT), (CACHE_CONTROL, "no-store")], text).into_response())
}

/// All metrics of `rows`.
fn encode(rows: Vec<Row>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Rows(rows)));
    let mut out = String::new();
    text::encode_registry(&mut out, &registry)?;
    Ok(out)
}

struct Rows(Vec<Row>);

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rows")
    }
}

impl Collector for Rows {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let (version, number) = sqlite::version();
        let build = vec![("version", env!("CARGO_PKG_VERSION").to_string()), ("sqlite_version", version)];
        let about = "Version of the library, and of the SQLite that it is loaded into";
        write(&mut encoder, "litestream_build_info", about, MetricType::Gauge, [(build, 1.0)])?;
        let bug = f64::from(u8::from(sqlite::has_wal_reset_bug(number)));
        let about = "1 if that SQLite has the WAL-reset bug";
        write(&mut encoder, "litestream_wal_reset_bug", about, MetricType::Gauge, [(Vec::new(), bug)])?;
        for Family(name, help, kind, samples) in &OF_FILES {
            let mut seen: Vec<&Path> = Vec::new();
            let mut all = Vec::new();
            for row in &self.0 {
                if !seen.contains(&row.path.as_path()) {
                    seen.push(&row.path);
                    all.extend(samples(row).into_iter().map(|sample| labelled(row, &[], sample)));
                }
            }
            write(&mut encoder, name, help, *kind, all)?;
        }
        for Family(name, help, kind, samples) in &OF_ROLES {
            let of_row = |row| samples(row).into_iter().map(|sample| labelled(row, &[("role", row.role)], sample));
            write(&mut encoder, name, help, *kind, self.0.iter().flat_map(of_row).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

/// Writes one family; nothing of one without samples.
fn write(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    kind: MetricType,
    samples: impl IntoIterator<Item = Sample>,
) -> fmt::Result {
    let mut samples = samples.into_iter().peekable();
    if samples.peek().is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in samples {
        if labels.is_empty() {
            family.encode_gauge(&value)?;
        } else {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
    }
    Ok(())
}

fn labelled(row: &Row, more: &[(&'static str, &'static str)], (labels, value): Sample) -> Sample {
    let mut all = vec![("db", row.path.to_string_lossy().into_owned())];
    all.extend(more.iter().map(|(name, text)| (*name, text.to_string())));
    all.extend(labels);
    (all, value)
}

fn one(value: u64) -> Vec<Sample> {
    vec![(Vec::new(), value as f64)]
}

fn of<T>(value: Option<T>, sample: impl Fn(T) -> Sample) -> Vec<Sample> {
    value.map(sample).into_iter().collect()
}

fn served(row: &Row, value: impl Fn(&Counts) -> u64) -> Vec<Sample> {
    row.counts().map_or(Vec::new(), |counts| one(value(counts)))
}

fn followed(row: &Row, value: impl Fn(u64, u64, u64) -> u64) -> Vec<Sample> {
    match &row.part {
        Part::Followed { reconnects, heals, audited, .. } => one(value(*reconnects, *heals, *audited)),
        Part::Served(..) => Vec::new(),
    }
}

fn checkpoints(row: &Row, value: impl Fn(&Effort) -> f64) -> Vec<Sample> {
    let counts = row.counts().into_iter();
    counts.map(|counts| (vec![("mode", "PASSIVE".to_string())], value(&counts.checkpoints))).collect()
}

fn sent(row: &Row, value: impl Fn((u64, u64)) -> u64) -> Vec<Sample> {
    let sent = row.counts().map(|counts| Sending::ALL.into_iter().zip(counts.sent));
    sent.into_iter()
        .flatten()
        .map(|(what, sent)| (vec![("kind", what.name().to_string())], value(sent) as f64))
        .collect()
}
