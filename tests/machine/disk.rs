//! Small disks that can be filled.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Mounts a small file system of its own at `folder`; false where that is not allowed.
pub fn mount(folder: &Path, megabytes: u32) -> bool {
    let size = format!("size={megabytes}m");
    let run =
        Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).stderr(Stdio::null()).status();
    run.is_ok_and(|status| status.success())
}

pub fn unmount(folder: &Path) {
    let _ = Command::new("umount").arg("-l").arg(folder).status();
}

/// Takes all space that is left in `folder` but for about `spare` bytes.
pub fn fill(folder: &Path, spare: u64) {
    let Ok(mut file) = File::create(folder.join("filler")) else { return };
    let zeros = vec![0; 64 << 10];
    let mut size = 0;
    while let Ok(n @ 1..) = file.write(&zeros) {
        size += n as u64;
    }
    let _ = file.set_len(size.saturating_sub(spare));
}

/// Gives it back.
pub fn empty(folder: &Path) {
    let _ = std::fs::remove_file(folder.join("filler"));
}

/// Unmounts `folder` and keeps what was in it there.
pub fn keep(folder: &Path) {
    let beside = folder.with_extension("kept");
    let copied = Command::new("cp").arg("-a").arg(folder).arg(&beside).status();
    unmount(folder);
    if copied.is_ok_and(|status| status.success()) {
        let _ = std::fs::remove_dir(folder).and_then(|()| std::fs::rename(&beside, folder));
    }
}
