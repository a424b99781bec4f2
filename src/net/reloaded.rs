//! What is read from files, and read again when they change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::base::Result;

/// A value made from files. What is wrong when it is read again does not take the place of what was right.
pub struct Reloaded<T> {
    paths: Vec<PathBuf>,
    read: Box<dyn Fn() -> Result<T> + Send + Sync>,
    current: Mutex<(Vec<Stamp>, T)>,
}

/// What tells one content of a file from another. The times alone do not: two changes can fall into one tick of the clock.
#[derive(PartialEq, Eq)]
struct Stamp(Option<[i64; 4]>, u64, u64);

impl<T: Clone> Reloaded<T> {
    /// Reads the files at `paths` through `read` for the first time.
    pub fn begin(paths: Vec<PathBuf>, read: impl Fn() -> Result<T> + Send + Sync + 'static) -> Result<Reloaded<T>> {
        // Looked at before they are read: a change in between is one that is seen later.
        let stamps = paths.iter().map(|path| Stamp::of(path)).collect();
        let first = read()?;
        Ok(Reloaded { paths, read: Box::new(read), current: Mutex::new((stamps, first)) })
    }

    /// The value as of what the files hold now. Files that cannot be read any more, or hold something wrong, are told in the log
    /// once, and the value stays what it was.
    pub fn current(&self) -> T {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps: Vec<Stamp> = self.paths.iter().map(|path| Stamp::of(path)).collect();
        if stamps != current.0 {
            current.0 = stamps;
            match (self.read)() {
                Ok(value) => current.1 = value,
                Err(error) => log::warn!("what was there before still counts: {error}"),
            }
        }
        current.1.clone()
    }
}

impl Stamp {
    fn of(path: &Path) -> Stamp {
        match fs::metadata(path) {
            Ok(file) => {
                let times = [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()];
                Stamp(Some(times), file.ino(), file.len())
            }
            Err(_) => Stamp(None, 0, 0),
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;
    use crate::base::Error;

    #[test]
    fn a_change_counts_and_a_broken_one_does_not() {
        let path = std::env::temp_dir().join(format!("litestream-reloaded-{}", std::process::id()));
        fs::write(&path, "1").expect("a file");
        let from = path.clone();
        let read = move || {
            let text = fs::read_to_string(&from).map_err(|e| Error::usage(e.to_string()))?;
            text.parse::<u32>().map_err(|e| Error::usage(e.to_string()))
        };
        let number = Reloaded::begin(vec![path.clone()], read).expect("a number");
        assert_eq!(number.current(), 1);
        for (text, expected) in [("23", 23), ("broken", 23), ("456", 456)] {
            fs::write(&path, text).expect("a file");
            assert_eq!(number.current(), expected, "{text}");
        }
        fs::remove_file(&path).expect("the file");
        assert_eq!(number.current(), 456);
        assert!(Reloaded::begin(vec![path.clone()], || Err::<u32, _>(Error::usage("gone"))).is_err());
    }
}
