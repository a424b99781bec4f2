//! `GET /`: one page for people, and `GET /status.json`, which the page asks each second for what has changed.
//!
//! The page is complete as it comes, without JavaScript. Each value in it says which member of the JSON it is and how it is
//! shown, so that the script has no knowledge of its own of what there is.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::report::{Part, Reporter, Row, state_of};
use super::routes::Refusal;
use crate::base::{Headway, unix_ms, utc};
use crate::primary::{ReplicaRow, Sending};
use crate::sqlite;

const TEMPLATE: &str = include_str!("page.html");

/// The page.
pub async fn page(State(reporter): State<Arc<Reporter>>) -> Result<Response, Refusal> {
    let rows = reporter.rows().await?;
    let nonce = format!("{:032x}", u128::from_le_bytes(sqlite::random_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, policy.as_str()),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, html(&rows, &nonce)).into_response())
}

/// The same as data.
pub async fn status(State(reporter): State<Arc<Reporter>>) -> Result<Response, Refusal> {
    let rows = reporter.rows().await?;
    let headers =
        [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Ok((headers, json(&rows).to_string()).into_response())
}

// --- data --------------------------------------------------------------------------------------------------------

fn json(rows: &[Row]) -> Value {
    let (sqlite_version, number) = sqlite::version();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "sqlite_version": sqlite_version,
        "wal_reset_bug": sqlite::has_wal_reset_bug(number),
        "time": unix_ms(),
        "databases": rows.iter().map(database).collect::<Vec<_>>(),
    })
}

fn database(row: &Row) -> Value {
    let mut value = json!({
        "key": key(row),
        "database": row.path.to_string_lossy(),
        "role": row.role,
        "state": row.state,
        "reason": row.reason,
        "url": row.url,
        "position": row.position.map(|position| position.to_string()),
        "db_bytes": row.db_bytes,
        "wal_bytes": row.wal_bytes,
        "commits": row.commits,
        "connections": row.connections,
        "verification_failures": row.failures,
        "last_error": row.last_error.as_ref().map(|error| &error.text),
        "last_error_at": row.last_error.as_ref().map(|error| error.at),
        "progress": row.headway.map(|headway| headway.percent()),
        "seconds_left": seconds_left(row.headway),
    });
    let more = match &row.part {
        Part::Served(counts, replicas) => json!({
            "sent": Sending::ALL.into_iter().zip(counts.sent)
                .map(|(what, (pages, bytes))| (what.name().to_string(), json!({ "pages": pages, "bytes": bytes })))
                .collect::<serde_json::Map<_, _>>(),
            "sent_bytes": sent_bytes(row),
            "snapshots": counts.snapshots,
            "connected": replicas.len(),
            "replicas": replicas.iter().map(replica).collect::<Vec<_>>(),
        }),
        Part::Followed { reconnects, heals, healed, audited } => json!({
            "lag": row.lag, "pages": row.pages, "bytes": row.bytes, "reconnects": reconnects, "heals": heals,
            "healed": healed, "audited_pages": audited,
        }),
    };
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    value
}

fn replica(replica: &ReplicaRow) -> Value {
    json!({
        "client": replica.client,
        "version": replica.version,
        "state": state_of(replica),
        "position": replica.position.map(|position| position.to_string()),
        "lag": replica.lag,
        "commits": replica.commits,
        "pages": replica.pages,
        "bytes": replica.bytes,
        "seconds": replica.seconds,
        "progress": replica.headway.map(|headway| headway.percent()),
        "seconds_left": seconds_left(replica.headway),
    })
}

/// What tells a row from the others.
fn key(row: &Row) -> String {
    format!("{} {}", row.role, row.path.to_string_lossy())
}

fn sent_bytes(row: &Row) -> u64 {
    row.counts().map_or(0, |counts| counts.sent.iter().map(|(_, bytes)| bytes).sum())
}

fn seconds_left(headway: Option<Headway>) -> Option<f64> {
    headway.and_then(|headway| headway.seconds_left())
}

// --- the page ----------------------------------------------------------------------------------------------------

/// A value of the page: the member of the JSON it is, how it is shown, and as what.
struct Shown(&'static str, &'static str, Option<String>);

fn html(rows: &[Row], nonce: &str) -> String {
    let (sqlite, number) = sqlite::version();
    let bug = if sqlite::has_wal_reset_bug(number) { ", which has the WAL-reset bug" } else { "" };
    let about = format!("{}, on SQLite {sqlite}{bug}", env!("CARGO_PKG_VERSION"));
    let databases: String = match rows {
        [] => "<section><p>This process serves and follows no database now.</p></section>".into(),
        rows => rows.iter().map(card).collect(),
    };
    // The databases come last: nothing in their names is taken for a place to fill.
    let fills = [("{{nonce}}", nonce), ("{{about}}", &escape(&about)), ("{{time}}", &utc(unix_ms()))];
    let page = fills.iter().fold(TEMPLATE.to_string(), |page, (place, text)| page.replace(place, text));
    page.replacen("{{databases}}", &databases, 1)
}

fn card(row: &Row) -> String {
    let text = |text: &str| Some(text.to_string());
    let state = badge(row.state);
    let name = row.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let verb = if row.counts().is_some() { "at" } else { "from" };
    let left = seconds_left(row.headway);
    let error_at = row.last_error.as_ref().map(|error| utc(error.at));
    format!(
        "<section data-key=\"{key}\"><h2>{name} {state} <span class=\"role\">{role}</span></h2>\
         <p class=\"where\">{path}, {verb} {url}</p><dl>{facts}</dl>\
         <div data-optional{no_progress}><progress max=\"100\" value=\"{percent}\" data-f=\"progress\"></progress></div>\
         <p class=\"told\" data-optional{no_left}>{left} left</p>\
         <p class=\"told\" data-optional{no_reason}>{reason}</p>\
         <p class=\"told error\" data-optional{no_error}>{error_at} UTC: {error}</p>{charts}{replicas}</section>\n",
        key = escape(&key(row)),
        name = escape(&name),
        role = row.role,
        path = escape(&row.path.to_string_lossy()),
        url = escape(&row.url),
        facts = facts(row),
        percent = row.headway.map_or(0.0, |headway| headway.percent()),
        no_progress = hidden(row.headway.is_none()),
        no_left = hidden(left.is_none()),
        left = span(Shown("seconds_left", "seconds", left.map(seconds))),
        no_reason = hidden(row.reason.is_none()),
        reason = span(Shown("reason", "text", row.reason.clone())),
        no_error = hidden(row.last_error.is_none()),
        error_at = span(Shown("last_error_at", "utc", error_at)),
        error = span(Shown("last_error", "text", row.last_error.as_ref().and_then(|error| text(&error.text)))),
        charts = charts(row),
        replicas = replicas(row),
    )
}

fn facts(row: &Row) -> String {
    let bytes = |n: u64| Some(bytes(n));
    let number = |n: u64| Some(n.to_string());
    let mut facts = vec![
        ("Size", Shown("db_bytes", "bytes", bytes(row.db_bytes))),
        ("WAL", Shown("wal_bytes", "bytes", bytes(row.wal_bytes))),
        ("Commits", Shown("commits", "number", number(row.commits))),
    ];
    match &row.part {
        Part::Served(counts, replicas) => facts.extend([
            ("Replicas", Shown("connected", "number", number(replicas.len() as u64))),
            ("Connections", Shown("connections", "number", number(counts.connections))),
            ("Sent", Shown("sent_bytes", "bytes", bytes(sent_bytes(row)))),
        ]),
        Part::Followed { reconnects, heals, .. } => facts.extend([
            ("Lag", Shown("lag", "seconds", row.lag.map(seconds))),
            ("Received", Shown("bytes", "bytes", bytes(row.bytes))),
            ("Reconnects", Shown("reconnects", "number", number(*reconnects))),
            ("Heals", Shown("heals", "number", number(*heals))),
        ]),
    }
    let position = Shown("position", "text", row.position.map(|position| position.to_string()));
    let one = |class: &str, (name, shown)| format!("<div{class}><dt>{name}</dt><dd>{}</dd></div>", span(shown));
    let narrow: String = facts.into_iter().map(|fact| one("", fact)).collect();
    narrow + &one(" class=\"wide\"", ("Position", position))
}

/// Charts, which the script fills. Without it they are not shown.
fn charts(row: &Row) -> String {
    let charts: [(&str, &str, &str); 2] = match row.part {
        Part::Served(..) => [("Commits", "commits", "per second"), ("Sent", "sent_bytes", "rate")],
        Part::Followed { .. } => [("Lag", "lag", "seconds"), ("Received", "bytes", "rate")],
    };
    let one = |(name, field, kind)| {
        format!(
            "<figure data-chart=\"{field}\" data-kind=\"{kind}\"><figcaption>{name} <small></small> <b>–</b></figcaption>{SPARKLINE}</figure>"
        )
    };
    format!("<div class=\"charts\">{}</div>", charts.map(one).concat())
}

const SPARKLINE: &str =
    "<svg viewBox=\"0 0 100 40\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><path/><polyline/></svg>";

fn replicas(row: &Row) -> String {
    if row.replicas().is_empty() {
        return String::new();
    }
    let head = "<tr><th>Replica</th><th>State</th><th>Lag</th><th class=\"chart\">Lag, last 90 s</th><th>Sent</th>\
                <th class=\"chart\">Throughput, last 90 s</th><th>Commits</th><th>Connected for</th></tr>";
    let lines: String = row.replicas().iter().map(replica_line).collect();
    format!("<div class=\"scroll\"><table><thead>{head}</thead><tbody>{lines}</tbody></table></div>")
}

fn replica_line(replica: &ReplicaRow) -> String {
    let cell = |name: &str, content: String| format!("<td data-name=\"{name}\">{content}</td>");
    let chart = |name: &str, field: &str, kind: &str, now: &str| {
        format!(
            "<td class=\"chart\" data-name=\"{name}\" data-chart=\"{field}\" data-kind=\"{kind}\">{SPARKLINE}{now}</td>"
        )
    };
    let client = escape(&replica.client);
    [
        format!("<tr data-key=\"{client}\">"),
        cell("Replica", client.clone()),
        cell("State", badge(state_of(replica))),
        cell("Lag", span(Shown("lag", "seconds", Some(seconds(replica.lag))))),
        chart("Lag, last 90 s", "lag", "seconds", ""),
        cell("Sent", span(Shown("bytes", "bytes", Some(bytes(replica.bytes))))),
        chart("Throughput, last 90 s", "bytes", "rate", "<b></b>"),
        cell("Commits", span(Shown("commits", "number", Some(replica.commits.to_string())))),
        cell("Connected for", span(Shown("seconds", "seconds", Some(seconds(replica.seconds))))),
        "</tr>".to_string(),
    ]
    .concat()
}

fn badge(state: &str) -> String {
    format!("<span class=\"badge\" data-state=\"{state}\" data-f=\"state\" data-t=\"text\">{state}</span>")
}

fn span(Shown(field, kind, value): Shown) -> String {
    let value = value.map_or("–".to_string(), |value| escape(&value));
    format!("<span data-f=\"{field}\" data-t=\"{kind}\">{value}</span>")
}

fn hidden(is: bool) -> &'static str {
    if is { " hidden" } else { "" }
}

/// A size as people read it. The script has the same.
fn bytes(n: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = n as f64;
    let mut shown = format!("{n} B");
    for unit in units {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        shown = format!("{size:.1} {unit}");
    }
    shown
}

/// A time as people read it. The script has the same.
fn seconds(s: f64) -> String {
    match s {
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{:.1} min", s / 60.0),
        s if s < 86_400.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} d", s / 86_400.0),
    }
}

/// Text as it may stand in HTML, between tags and in quotes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_is_text_in_the_page() {
        assert_eq!(escape("<a href='x'>&\"é"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;é");
    }

    #[test]
    fn sizes_and_times_are_readable() {
        for (n, shown) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3.0 TiB")]
        {
            assert_eq!(bytes(n), shown);
        }
        for (s, shown) in [(0.0, "0 ms"), (0.25, "250 ms"), (1.5, "1.5 s"), (90.0, "1.5 min"), (5400.0, "1.5 h")] {
            assert_eq!(seconds(s), shown);
        }
        assert_eq!(seconds(129_600.0), "1.5 d");
    }

    #[test]
    fn the_page_fetches_nothing_from_elsewhere() {
        assert!(!TEMPLATE.contains("://"), "a URL in the page");
    }
}
