//! What a server's clock says, and asking for it again while a stream goes on.

use std::sync::mpsc::channel;
use std::time::Duration;

use ureq::Agent;
use ureq::http::{HeaderMap, HeaderValue};

use super::answer::text;
use crate::base::{Error, Result};
use crate::format::record::TIME_HEADER;
use crate::replica::{CompareClocks, Times};
use crate::sqlite::{spawn, steady_id, steady_ms};

/// How long that may take. An answer that comes much sooner is late already.
const PATIENCE: Duration = Duration::from_secs(5);

/// The value of [`TIME_HEADER`] for a request that came at `came_at`. Rounded up, and the times in
/// records down: no difference of theirs is longer than what has passed.
pub fn header_value(came_at: i64) -> HeaderValue {
    let text = format!("{} {:016x}", came_at.saturating_add(1), steady_id());
    // Digits and a space make a value of a header.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

/// What the times in a stream mean, by the head of its answer; the request was sent at `ours`.
pub fn times(headers: &HeaderMap, version2: bool, ours: i64) -> Result<Times> {
    let Some(value) = text(headers, TIME_HEADER).filter(|_| version2) else {
        return Ok(if version2 { Times::WallClock } else { Times::None { ours } });
    };
    let read = value.split_once(' ').and_then(|(theirs, clock)| {
        Some(Times::Since { ours, theirs: theirs.parse().ok()?, clock: u64::from_str_radix(clock, 16).ok()? })
    });
    read.ok_or_else(|| {
        let found = super::printable(value);
        Error::corrupt(format!(
            "header {TIME_HEADER}: '{found}', expected milliseconds since 1970 and the name of a clock"
        ))
    })
}

/// Asks for the clock of the server at `url` again, over connections of its own that are made as
/// those of `agent`.
pub fn comparing(agent: &Agent, url: String) -> CompareClocks {
    let agent = Agent::new_with_config(agent.config().clone());
    Box::new(move || {
        let (answer, comparing) = channel();
        let (agent, url) = (agent.clone(), url.clone());
        let ask = move || {
            let sent = steady_ms();
            if let Ok(response) = agent.get(&url).config().timeout_global(Some(PATIENCE)).build().call()
                && let Ok(times) = times(response.headers(), true, sent)
                && Times::is_prompt(sent)
            {
                let _ = answer.send(times);
            }
        };
        drop(spawn("litestream-clock", ask));
        comparing
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Times> {
        let mut headers = HeaderMap::new();
        headers.insert(TIME_HEADER, HeaderValue::from_str(value).map_err(|e| Error::usage(e.to_string()))?);
        times(&headers, true, 7)
    }

    #[test]
    fn the_time_of_a_server_is_read_and_a_broken_one_refused() {
        assert_eq!(
            read("1764200000000 00000000000000ff"),
            Ok(Times::Since { ours: 7, theirs: 1_764_200_000_000, clock: 255 })
        );
        for broken in ["", "x", "12", "12 xyz", "12 1 1", "99999999999999999999 1"] {
            assert!(read(broken).is_err_and(|error| error.to_string().contains(TIME_HEADER)), "'{broken}'");
        }
    }

    #[test]
    fn a_missing_time_means_wall_clocks_in_version_2_and_none_in_version_1() {
        let none = HeaderMap::new();
        assert_eq!(times(&none, true, 7), Ok(Times::WallClock));
        assert_eq!(times(&none, false, 7), Ok(Times::None { ours: 7 }));
    }
}
