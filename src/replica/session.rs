//! A stream of version 2: pages and commits.

use std::io::Read;

use super::feeder::{Feeder, Until};
use super::pending::Pending;
use super::records::Records;
use super::upstream_clock::{Newest, UpstreamClock};
use crate::base::{Error, Kind, PageSize, Position, Result};
use crate::format::compression::Compression;
use crate::format::record::{Begin, Commit, Pages, Type, decode_heartbeat};
use crate::store::Coverage;

/// Applies a stream to a replica until it ends or fails, or as `until` says.
pub(super) fn run(
    feeder: &mut Feeder,
    body: Box<dyn Read + Send>,
    compression: Compression,
    mut clock: UpstreamClock,
    until: Until,
) -> Result<()> {
    let mut records = Records::new(body).compressed_with(compression).silent_for(feeder.options.silence);
    let (position, begin) = read_begin(&mut records)?;
    feeder.adopt(position.generation, begin.everything, begin.page_size)?;
    feeder.progress.catching_up(begin.pages);
    let coverage = if feeder.is_new()? {
        bootstrap(feeder, &mut records, &begin, &mut clock)?;
        None
    } else {
        begin.everything.then(|| Coverage::new(begin.page_size))
    };
    let pending = feeder.pending(begin.page_size)?;
    let mut session = Session { page_size: begin.page_size, pending, clock, coverage, commit: None };
    while !(until == Until::CaughtUp && feeder.progress.is_caught_up()) {
        if (feeder.stop)() {
            return Ok(());
        }
        session.step(feeder, &mut records)?;
    }
    Ok(())
}

fn read_begin<R: Read>(records: &mut Records<R>) -> Result<(Position, Begin)> {
    let header = records.header()?.ok_or_else(ended)?;
    match header.kind {
        Type::Begin => {
            let begin = Begin::decode(&header, records.payload(&header)?)?;
            records.begun(&begin)?;
            Ok((header.position, begin))
        }
        Type::Error => Err(told(records.payload(&header)?)),
        kind => Err(unexpected(kind, "a begin record")),
    }
}

/// Writes the first catch-up straight into the file.
fn bootstrap<R: Read>(
    feeder: &mut Feeder,
    records: &mut Records<R>,
    begin: &Begin,
    clock: &mut UpstreamClock,
) -> Result<()> {
    let mut file = feeder.bootstrap(begin.page_size)?;
    let (position, commit) = loop {
        if (feeder.stop)() {
            return Err(ended());
        }
        let header = records.header()?.ok_or_else(ended)?;
        match header.kind {
            Type::Pages => {
                let pages = Pages::decode(records.payload(&header)?, begin.page_size)?;
                for run in pages.runs() {
                    let (first, images) = run?;
                    feeder.progress.arrived((images.len() / begin.page_size.bytes()) as u64);
                    file.write(first, images)?;
                }
            }
            Type::Commit => break (header.position, Commit::decode(&header, records.payload(&header)?)?),
            Type::Error => return Err(told(records.payload(&header)?)),
            Type::Heartbeat => {
                records.payload(&header)?;
            }
            kind => return Err(unexpected(kind, "pages or a commit")),
        }
        feeder.count(records.bytes);
    };
    let finished = file.finish_checked(commit.pages, expected(&commit), || feeder.claim());
    let checksums = finished.inspect_err(|error| {
        if error.kind() == Kind::Corrupt {
            feeder.progress.failed_verification();
        }
    })?;
    log::info!("new replica at {position}: {} pages", commit.pages);
    feeder.made(position, clock.newest(commit.time), commit.pages, Some(checksums))?;
    feeder.count(records.bytes);
    Ok(())
}

/// What the database must sum up to after a commit; none when its sender does not say.
fn expected(commit: &Commit) -> Option<u64> {
    Some(commit.checksum).filter(|checksum| *checksum != 0)
}

/// Where the stream is within a commit.
struct Session {
    page_size: PageSize,
    pending: Pending,
    /// What the times in the stream mean.
    clock: UpstreamClock,
    /// Which pages have come, while everything has to.
    coverage: Option<Coverage>,
    /// A commit that has ended but is not applied yet, since more have arrived already.
    commit: Option<(Position, Commit)>,
}

impl Session {
    /// Reads one record and does what it says.
    fn step<R: Read>(&mut self, feeder: &mut Feeder, records: &mut Records<R>) -> Result<()> {
        let header = records.header()?.ok_or_else(ended)?;
        let payload = records.payload(&header)?;
        match header.kind {
            Type::Pages => {
                let pages = Pages::decode(payload, self.page_size)?;
                feeder.progress.arrived(pages.len() as u64);
                for page in pages.iter() {
                    let (pgno, image) = page?;
                    if let Some(coverage) = &mut self.coverage {
                        coverage.add(pgno);
                    }
                    feeder.database.put(&mut self.pending, pgno, image, feeder.stop)?;
                }
            }
            Type::Commit => {
                self.commit = Some((header.position, Commit::decode(&header, payload)?));
                if self.pending.is_large() || !records.has_whole_commit() {
                    // Before others learn of the commit: what they ask for then includes its bytes.
                    feeder.progress.received(records.bytes);
                    self.apply(feeder)?;
                    feeder.count(records.bytes);
                    feeder.audit()?;
                }
            }
            Type::Heartbeat => {
                let time = decode_heartbeat(&header, payload)?;
                if self.pending.is_empty() && self.commit.is_none() {
                    check_heartbeat(header.position, feeder.position())?;
                    self.clock.keep_up();
                    let is_last_word = !records.has_more();
                    feeder.stand(header.position, Newest { is_last_word, ..self.clock.newest(time) })?;
                    // A quiet moment.
                    feeder.make_durable()?;
                    feeder.count(records.bytes);
                    feeder.audit()?;
                }
            }
            Type::Begin => {
                let begin = Begin::decode(&header, payload)?;
                if begin.page_size != self.page_size {
                    return Err(Error::corrupt("stream: the page size changed in the middle"));
                }
                records.begun(&begin)?;
                feeder.progress.catching_up(begin.pages);
            }
            Type::Error => return Err(told(payload)),
            kind => return Err(unexpected(kind, "a record of version 2")),
        }
        Ok(())
    }

    fn apply(&mut self, feeder: &mut Feeder) -> Result<()> {
        let Some((position, commit)) = self.commit.take() else { return Ok(()) };
        if let Some(coverage) = self.coverage.take() {
            coverage.check(commit.pages)?;
        }
        let newest = self.clock.newest(commit.time);
        feeder.add_mark(&mut self.pending)?;
        if self.pending.is_empty() && !feeder.database.changes_size(commit.pages)? {
            return feeder.confirm(commit.pages, expected(&commit), position, newest);
        }
        let pending = std::mem::replace(&mut self.pending, Pending::new(self.page_size, feeder.read_only()));
        feeder.commit(pending, commit.pages, expected(&commit), position, newest)
    }
}

/// Nothing new is the state after the last commit.
fn check_heartbeat(found: Position, last: Option<Position>) -> Result<()> {
    match last {
        Some(last) if last != found => Err(Error::corrupt(format!(
            "stream: a heartbeat at {found}, expected one at {last}, that of the last commit"
        ))),
        _ => Ok(()),
    }
}

fn ended() -> Error {
    Error::new(Kind::Io, "stream: the upstream ended it")
}

fn told(payload: &[u8]) -> Error {
    Error::new(Kind::Io, format!("the upstream says: {}", String::from_utf8_lossy(payload)))
}

pub(super) fn unexpected(found: Type, expected: &str) -> Error {
    Error::corrupt(format!("stream: a {found:?} record, expected {expected}"))
}
