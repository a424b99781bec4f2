use std::fs;

use litestream::store::Sidecar;

use crate::database::scratch;
use crate::input::Input;
use crate::slow::{crc64, long};

/// The files that are read from a sidecar.
const FILES: [&str; 5] = ["position", "generation", "upstream", "pages", "lock"];

/// Reads a file of the sidecar. What was understood and written again is the same file.
pub fn sidecar(data: &[u8]) {
    let mut input = Input(data);
    let (which, repair) = (input.byte(), input.byte() & 1 == 1);
    let name = FILES[usize::from(which) % FILES.len()];
    let mut content = input.0.to_vec();
    if let (true, Some(end)) = (repair && name == "pages", content.len().checked_sub(8)) {
        let crc = crc64(content[..end].iter());
        content[end..].copy_from_slice(&crc.to_be_bytes());
    }
    let folder = scratch().join("some.db-litestream");
    fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join(name);
    fs::write(&file, &content).expect("a file of the sidecar");
    let sidecar = Sidecar::of(&scratch().join("some.db"));
    let canonical = match name {
        "position" => sidecar.position().map(|position| sidecar.set_position(&position)).is_some(),
        "generation" => sidecar.generation().map(|(name, index)| sidecar.set_generation(name, index)).is_some(),
        "upstream" => sidecar.upstream().map(|url| sidecar.set_upstream(&url)).is_some(),
        "pages" => pages(&sidecar, &content),
        _ => {
            let held = sidecar.lock("try").expect("a lock that nobody holds");
            let refused = sidecar.lock("try again").err().expect("a lock that is held").to_string();
            assert!(refused.contains(&format!("process {} already", std::process::id())), "{refused}");
            drop(held);
            false
        }
    };
    if canonical {
        assert!(fs::read(&file).expect("the file") == content, "{name} is not what was read");
    }
    fs::remove_file(&file).expect("the file");
}

/// Whether the file is as it would be written. What is no checksum counts as none, and none is written as zero.
fn pages(sidecar: &Sidecar, content: &[u8]) -> bool {
    let Some((header, entries)) = sidecar.pages() else { return false };
    assert_eq!(header.file_size() as usize, content.len());
    assert_eq!(long(content, content.len() - 8), crc64(content[..content.len() - 8].iter()), "a CRC that does not fit");
    assert_eq!(entries.len(), header.pages as usize);
    sidecar.set_pages(&header, entries.iter().copied()).expect("a file");
    assert_eq!(sidecar.pages(), Some((header, entries)), "written and read");
    content[72..content.len() - 8]
        .chunks_exact(16)
        .all(|entry| matches!(long(entry, 8) >> 63, 1) || long(entry, 8) == 0)
}
