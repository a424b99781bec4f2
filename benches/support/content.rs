//! What a database holds, to tell whether two ways to copy it did the same work.

use std::path::Path;

use crc_fast::{CrcAlgorithm, Digest};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::{Value, json};

use super::Result;
use super::stats;
use super::worker::Worker;

/// Rows, bytes and a hash of the table `row`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content(Value);

impl Content {
    /// Reads all of a database with a process of its own, and checks its integrity. An error if that is not in order.
    pub fn of(database: &Path) -> Result<Content> {
        Content::seen_by(&mut Worker::open(database)?)
    }

    /// The same, as a worker sees it that has the database open.
    pub fn seen_by(worker: &mut Worker) -> Result<Content> {
        Ok(Content(worker.ask(json!({"do": "content"}))?))
    }

    /// An error unless both are the same.
    pub fn must_equal(&self, other: &Content) -> Result<()> {
        if self == other { Ok(()) } else { Err(format!("it holds {}, and not {}", self.0, other.0).into()) }
    }
}

/// Figures of one way to do some work, and what it led to, one of each for every run.
#[derive(Default)]
pub struct Work {
    /// The figures.
    pub figures: Vec<f64>,
    contents: Vec<Content>,
}

impl Work {
    /// Adds a run.
    pub fn add(&mut self, figure: f64, content: Content) {
        self.figures.push(figure);
        self.contents.push(content);
    }

    /// The figures as multiples of those of another way, run by run. An error if a run of one led to anything else than that of
    /// the other: there is no ratio of unlike work.
    pub fn ratios(&self, to: &Work) -> Result<Vec<f64>> {
        if self.contents.len() != to.contents.len() {
            return Err(format!("{} runs are compared with {}", self.contents.len(), to.contents.len()).into());
        }
        self.contents.iter().zip(&to.contents).try_for_each(|(ours, theirs)| ours.must_equal(theirs))?;
        Ok(stats::ratios(&self.figures, &to.figures))
    }
}

/// Worker: the integrity of the database, and rows, bytes and hash of its table `row`.
pub fn read(connection: &Connection) -> Result<Value> {
    let integrity: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    if integrity != "ok" {
        return Err(format!("the copy is damaged: {integrity}").into());
    }
    let mut statement = connection.prepare("SELECT * FROM row ORDER BY id")?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let (mut count, mut bytes, mut hash) = (0_u64, 0_u64, Digest::new(CrcAlgorithm::Crc64GoIso));
    while let Some(row) = rows.next()? {
        count += 1;
        for column in 0..columns {
            let value = row.get_ref(column)?;
            let number;
            let content = match value {
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
                ValueRef::Integer(value) => {
                    number = value.to_le_bytes();
                    &number
                }
                ValueRef::Real(_) | ValueRef::Null => return Err("a value that the bench does not write".into()),
            };
            bytes += content.len() as u64;
            hash.update(&(content.len() as u64).to_le_bytes());
            hash.update(content);
        }
    }
    Ok(json!({"rows": count, "bytes": bytes, "hash": format!("{:016x}", hash.finalize())}))
}
