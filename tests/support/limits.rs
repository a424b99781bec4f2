//! What the system lets a process have.

/// Lets this process, and those that it starts from now on, have `wanted` files and sockets open.
#[allow(unsafe_code)]
pub fn allow_open_files(wanted: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a struct of ours, which lives through both calls.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0, "asking for the limit of open files");
        assert!(limit.rlim_max >= wanted, "this test opens {wanted} files, `ulimit -Hn` allows {}", limit.rlim_max);
        limit.rlim_cur = limit.rlim_cur.max(wanted);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0, "setting the limit of open files to {wanted}");
    }
}

/// Has the process that `command` starts, and that one only, have at most `most` files and sockets open.
#[allow(unsafe_code)]
pub fn limit_open_files(command: &mut std::process::Command, most: u64) {
    use std::os::unix::process::CommandExt;
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: setrlimit may be called between fork and exec; the struct is copied into the closure.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NOFILE, &limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}
