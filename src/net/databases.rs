//! What one address serves.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::settings::Limits;
use crate::base::{Error, Result};
use crate::primary::Primary;

/// The databases served at one address, in the order they came.
pub struct Databases {
    list: Mutex<Vec<Served>>,
    limits: Limits,
}

/// One of them. Dropping the sender ends its streams.
struct Served {
    primary: Arc<Primary>,
    open: watch::Sender<()>,
    streams: Arc<Semaphore>,
}

/// Why a request names no database.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    /// Several are served and none was named.
    Unnamed,
    /// The name is that of no database served.
    Unknown,
    /// The name is that of several files.
    Ambiguous,
}

/// Ends when the database is no longer served.
pub type Open = watch::Receiver<()>;

/// The right to one stream of a database, until it is dropped.
pub type Stream = OwnedSemaphorePermit;

impl Databases {
    /// None yet.
    pub fn new(limits: Limits) -> Databases {
        Databases { list: Mutex::default(), limits }
    }

    /// How much is taken on at this address.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Serves one more.
    pub fn add(&self, primary: Arc<Primary>) -> Result<()> {
        let mut list = self.lock();
        if list.iter().any(|served| served.primary.path() == primary.path()) {
            let path = primary.path().display();
            return Err(Error::usage(format!("{path} is being served already; call litestream_stop() first")));
        }
        let streams = usize::try_from(self.limits.streams).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        list.push(Served { primary, open: watch::Sender::default(), streams: Arc::new(Semaphore::new(streams)) });
        Ok(())
    }

    /// Stops serving the database at `path` and ends its streams; whether it was served.
    pub fn remove(&self, path: &Path) -> bool {
        let mut list = self.lock();
        let before = list.len();
        list.retain(|served| served.primary.path() != path);
        list.len() < before
    }

    /// Stops serving everything.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// All that are served.
    pub fn all(&self) -> Vec<Arc<Primary>> {
        self.lock().iter().map(|served| served.primary.clone()).collect()
    }

    /// The one called `name`: an absolute path or a file name. No name is needed for the only one.
    pub fn find(&self, name: Option<&str>) -> std::result::Result<(Arc<Primary>, Open), Missing> {
        let list = self.lock();
        let paths = list.iter().map(|served| (served.primary.path(), served.primary.file_name()));
        let served = list.get(choose(paths, name)?).ok_or(Missing::Unknown)?;
        Ok((served.primary.clone(), served.open.subscribe()))
    }

    /// Begins one more stream of `primary`, or comparison with it. None if there are as many as there may be.
    pub fn begin_stream(&self, primary: &Primary) -> Option<Stream> {
        let list = self.lock();
        let served = list.iter().find(|served| served.primary.path() == primary.path())?;
        Arc::clone(&served.streams).try_acquire_owned().ok()
    }

    /// The name under which `primary` is found: its file name, or its path where another file has the same name.
    pub fn name_of(&self, primary: &Primary) -> String {
        let namesakes = |served: &&Served| served.primary.file_name() == primary.file_name();
        match self.lock().iter().filter(namesakes).count() {
            0 | 1 => primary.file_name().to_string(),
            _ => primary.path().to_string_lossy().into_owned(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Served>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which of `databases` (path and file name of each) is called `name`. The file system is never asked, so that a
/// request cannot find out what else there is.
fn choose<'a>(
    databases: impl Iterator<Item = (&'a Path, &'a str)>,
    name: Option<&str>,
) -> std::result::Result<usize, Missing> {
    let databases: Vec<_> = databases.enumerate().collect();
    let Some(name) = name else {
        return match databases.as_slice() {
            [] => Err(Missing::Unknown),
            [(only, _)] => Ok(*only),
            _ => Err(Missing::Unnamed),
        };
    };
    if let Some((found, _)) = databases.iter().find(|(_, (path, _))| path.as_os_str() == name) {
        return Ok(*found);
    }
    let mut namesakes = databases.iter().filter(|(_, (_, file_name))| *file_name == name);
    match (namesakes.next(), namesakes.next()) {
        (None, _) => Err(Missing::Unknown),
        (Some((found, _)), None) => Ok(*found),
        (Some(_), Some(_)) => Err(Missing::Ambiguous),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(paths: &[&str], name: Option<&str>) -> std::result::Result<usize, Missing> {
        choose(paths.iter().map(|p| (Path::new(*p), p.rsplit('/').next().unwrap_or_default())), name)
    }

    #[test]
    fn the_only_database_needs_no_name() {
        assert_eq!(chosen(&["/a/x.db"], None), Ok(0));
        assert_eq!(chosen(&["/a/x.db", "/a/y.db"], None), Err(Missing::Unnamed));
        assert_eq!(chosen(&[], None), Err(Missing::Unknown));
    }

    #[test]
    fn a_database_is_found_by_path_or_file_name() {
        let paths = ["/a/x.db", "/a/y.db", "/b/x.db"];
        assert_eq!(chosen(&paths, Some("/b/x.db")), Ok(2));
        assert_eq!(chosen(&paths, Some("y.db")), Ok(1));
        assert_eq!(chosen(&paths, Some("x.db")), Err(Missing::Ambiguous));
        for name in ["", "z.db", "a/y.db", "/a", "/a/../a/y.db", "/a/./y.db", "/a//y.db", "Y.DB"] {
            assert_eq!(chosen(&paths, Some(name)), Err(Missing::Unknown), "{name}");
        }
    }
}
