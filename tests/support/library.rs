//! Where the library under test is.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

/// The library under test. Cargo builds it with the tests and puts it beside their binaries.
///
/// A test binary that somebody runs by hand may find an old one there; that is refused, since it would test nothing.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let binary = std::env::current_exe().expect("the path of this test binary");
        let library = binary.with_file_name(format!("{DLL_PREFIX}litestream{DLL_SUFFIX}"));
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        assert!(library.exists(), "no {}; run the tests through cargo, which builds it", library.display());
        assert!(
            modified(&library) >= newest(&sources),
            "{} is older than what is in {}; run the tests through cargo, which builds it",
            library.display(),
            sources.display()
        );
        library
    })
}

fn newest(folder: &Path) -> SystemTime {
    let entries = std::fs::read_dir(folder).expect("the folder of the sources");
    let times = entries.map(|entry| {
        let path = entry.expect("an entry of the folder of the sources").path();
        if path.is_dir() { newest(&path) } else { modified(&path) }
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

fn modified(path: &Path) -> SystemTime {
    std::fs::metadata(path).and_then(|m| m.modified()).expect("the time a file was modified")
}
