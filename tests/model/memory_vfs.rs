//! A VFS that keeps its files in memory: databases with WAL, shared memory and locks, for all
//! connections of this process.
//!
//! It takes the system out of the check: no call waits for a disk, and a crash is a matter of
//! dropping what had the files open. Locks work as those of SQLite's unix VFS do between
//! connections (<https://www.sqlite.org/c3ref/io_methods.html>).

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Once, PoisonError};

use rusqlite::ffi;

/// What the VFS is called.
pub const NAME: &CStr = c"memory";

const REGION: usize = 32768;
const SLOTS: usize = 8;

/// Locks of a database file, weakest first (<https://www.sqlite.org/lockingv3.html>).
const SHARED: c_int = 1;
const RESERVED: c_int = 2;
const PENDING: c_int = 3;
const EXCLUSIVE: c_int = 4;

/// One file, and what connections hold of it.
#[derive(Default)]
struct Node {
    bytes: Vec<u8>,
    shared: u32,
    /// Which handle has it reserved, pending or exclusive.
    owner: Option<u64>,
    level: c_int,
    shm: Shm,
}

/// The shared memory of a database.
#[derive(Default)]
struct Shm {
    users: u32,
    regions: Vec<Box<[u64; REGION / 8]>>,
    shared: [u32; SLOTS],
    exclusive: [bool; SLOTS],
}

type Shared = Arc<Mutex<Node>>;

static FILES: LazyLock<Mutex<HashMap<String, Shared>>> = LazyLock::new(Mutex::default);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Registers the VFS, once.
pub fn register() {
    static ONCE: Once = Once::new();
    // SAFETY: sqlite3_vfs_find(NULL) gives the default VFS, a static; what is registered is leaked
    // and so lives as long.
    ONCE.call_once(|| unsafe {
        let default = ffi::sqlite3_vfs_find(std::ptr::null());
        assert!(!default.is_null(), "SQLite without a VFS");
        let mut vfs = *default;
        vfs.szOsFile = size_of::<Handle>() as c_int;
        vfs.pNext = std::ptr::null_mut();
        vfs.zName = NAME.as_ptr();
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        vfs.xAccess = Some(access);
        assert_eq!(ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0), ffi::SQLITE_OK);
    });
}

/// The bytes of the file `name`; none if there is no such file.
pub fn bytes(name: &str) -> Option<Vec<u8>> {
    let node = locked(&FILES).get(name).map(Arc::clone)?;
    let node = locked(&node);
    Some(node.bytes.clone())
}

/// Makes the file `name`, or replaces what it holds.
pub fn put(name: &str, bytes: Vec<u8>) {
    let node = Arc::clone(locked(&FILES).entry(name.into()).or_default());
    locked(&node).bytes = bytes;
}

/// Removes the database `name` with all that belongs to it.
pub fn remove(name: &str) {
    let mut files = locked(&FILES);
    for suffix in ["", "-wal", "-shm", "-journal"] {
        files.remove(&format!("{name}{suffix}"));
    }
}

/// Gives `change` the shared memory of the database `name`, region by region, as a process that
/// maps it has it.
pub fn change_shm(name: &str, change: impl FnOnce(&mut [&mut [u8]])) {
    let Some(node) = locked(&FILES).get(name).map(Arc::clone) else { return };
    let mut node = locked(&node);
    let mut regions: Vec<&mut [u8]> = Vec::new();
    for region in &mut node.shm.regions {
        // SAFETY: the array is REGION bytes of plain numbers, and borrowed for as long as the
        // slice.
        regions.push(unsafe { std::slice::from_raw_parts_mut(region.as_mut_ptr().cast::<u8>(), REGION) });
    }
    change(&mut regions);
}

// --- the C side
// ------------------------------------------------------------------------------------------------------

#[repr(C)]
struct Handle {
    base: ffi::sqlite3_file,
    file: *mut Open,
}

/// What one handle holds.
struct Open {
    node: Shared,
    id: u64,
    level: c_int,
    mapped: bool,
    shm_shared: [bool; SLOTS],
    shm_exclusive: [bool; SLOTS],
    delete_on_close: Option<String>,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

// SAFETY of all that follow: SQLite calls them as <https://www.sqlite.org/c3ref/io_methods.html>
// and <https://www.sqlite.org/c3ref/vfs.html> say, one at a time for each file, with files that
// `open` made and names that end with NUL.

/// # Safety
/// `file` is an open file of ours, and no other connection has its state.
unsafe fn of<'f>(file: *mut ffi::sqlite3_file) -> &'f mut Open {
    // SAFETY: the caller vouches for it.
    unsafe { &mut *(*file.cast::<Handle>()).file }
}

/// # Safety
/// `name` is NUL-terminated.
unsafe fn text(name: *const c_char) -> String {
    // SAFETY: the caller vouches for it.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    static NEXT: Mutex<u64> = Mutex::new(0);
    // SAFETY: as above; SQLite takes a file whose methods are null for one that is not open.
    unsafe {
        let handle = file.cast::<Handle>();
        (*handle).base.pMethods = std::ptr::null();
        let name = (!name.is_null()).then(|| text(name));
        let node = match &name {
            None => Shared::default(),
            Some(name) => {
                let mut files = locked(&FILES);
                match files.get(name) {
                    Some(node) => Arc::clone(node),
                    None if flags & ffi::SQLITE_OPEN_CREATE == 0 => return ffi::SQLITE_CANTOPEN,
                    None => Arc::clone(files.entry(name.clone()).or_default()),
                }
            }
        };
        let mut next = locked(&NEXT);
        *next += 1;
        let opened = Open {
            node,
            id: *next,
            level: 0,
            mapped: false,
            shm_shared: [false; SLOTS],
            shm_exclusive: [false; SLOTS],
            delete_on_close: name.filter(|_| flags & ffi::SQLITE_OPEN_DELETEONCLOSE != 0),
        };
        (*handle).file = Box::into_raw(Box::new(opened));
        (*handle).base.pMethods = &METHODS;
        if !out.is_null() {
            *out = flags;
        }
        ffi::SQLITE_OK
    }
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, _sync: c_int) -> c_int {
    // SAFETY: as above.
    let name = unsafe { text(name) };
    match locked(&FILES).remove(&name) {
        Some(_) => ffi::SQLITE_OK,
        None => ffi::SQLITE_IOERR_DELETE_NOENT,
    }
}

unsafe extern "C" fn access(_: *mut ffi::sqlite3_vfs, name: *const c_char, flags: c_int, out: *mut c_int) -> c_int {
    // SAFETY: as above.
    unsafe {
        let node = locked(&FILES).get(&text(name)).map(Arc::clone);
        // For "does it exist", SQLite's unix VFS takes an empty file for none.
        let there = node.is_some_and(|node| flags != ffi::SQLITE_ACCESS_EXISTS || !locked(&node).bytes.is_empty());
        *out = c_int::from(there);
        ffi::SQLITE_OK
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: as above; the state was boxed by `open`.
    unsafe {
        unlock(file, 0);
        shm_unmap(file, 0);
        let opened = Box::from_raw((*file.cast::<Handle>()).file);
        if let Some(name) = &opened.delete_on_close {
            locked(&FILES).remove(name);
        }
        ffi::SQLITE_OK
    }
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, amount: c_int, at: i64) -> c_int {
    // SAFETY: as above; `to` has room for `amount` bytes.
    unsafe {
        let node = locked(&of(file).node);
        let out = std::slice::from_raw_parts_mut(to.cast::<u8>(), amount as usize);
        let there = node.bytes.get(at as usize..).unwrap_or_default();
        let n = there.len().min(out.len());
        out[..n].copy_from_slice(&there[..n]);
        out[n..].fill(0);
        if n == out.len() { ffi::SQLITE_OK } else { ffi::SQLITE_IOERR_SHORT_READ }
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, amount: c_int, at: i64) -> c_int {
    // SAFETY: as above; `from` holds `amount` bytes.
    unsafe {
        let mut node = locked(&of(file).node);
        let (start, end) = (at as usize, at as usize + amount as usize);
        if node.bytes.len() < end {
            node.bytes.resize(end, 0);
        }
        node.bytes[start..end].copy_from_slice(std::slice::from_raw_parts(from.cast::<u8>(), amount as usize));
        ffi::SQLITE_OK
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: as above.
    unsafe { locked(&of(file).node).bytes.resize(size as usize, 0) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn sync(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn size(file: *mut ffi::sqlite3_file, to: *mut i64) -> c_int {
    // SAFETY: as above.
    unsafe { *to = locked(&of(file).node).bytes.len() as i64 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: as above.
    let open = unsafe { of(file) };
    if open.level >= level {
        return ffi::SQLITE_OK;
    }
    let mut node = locked(&open.node);
    let mine = node.owner == Some(open.id);
    if open.level == 0 {
        if node.owner.is_some() && node.level >= PENDING {
            return ffi::SQLITE_BUSY;
        }
        node.shared += 1;
        open.level = SHARED;
    }
    if level == SHARED {
        return ffi::SQLITE_OK;
    }
    if node.owner.is_some() && !mine {
        return ffi::SQLITE_BUSY;
    }
    node.owner = Some(open.id);
    node.level = level.clamp(RESERVED, PENDING);
    open.level = node.level;
    if level == EXCLUSIVE {
        if node.shared > 1 {
            return ffi::SQLITE_BUSY;
        }
        node.level = EXCLUSIVE;
        open.level = EXCLUSIVE;
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: as above.
    let open = unsafe { of(file) };
    if open.level <= level {
        return ffi::SQLITE_OK;
    }
    let mut node = locked(&open.node);
    if node.owner == Some(open.id) {
        node.owner = None;
        node.level = 0;
    }
    if level == 0 {
        node.shared -= 1;
    }
    open.level = level;
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, to: *mut c_int) -> c_int {
    // SAFETY: as above.
    unsafe { *to = c_int::from(locked(&of(file).node).owner.is_some()) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    512
}

unsafe extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    assert_eq!(bytes as usize, REGION, "the size of a region");
    // SAFETY: as above.
    unsafe {
        let open = of(file);
        let mut node = locked(&open.node);
        if !open.mapped {
            open.mapped = true;
            node.shm.users += 1;
        }
        while extend != 0 && node.shm.regions.len() <= region as usize {
            node.shm.regions.push(Box::new([0; REGION / 8]));
        }
        *out = node.shm.regions.get_mut(region as usize).map_or(std::ptr::null_mut(), |r| r.as_mut_ptr().cast());
        ffi::SQLITE_OK
    }
}

unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, first: c_int, n: c_int, flags: c_int) -> c_int {
    // SAFETY: as above.
    let open = unsafe { of(file) };
    let mut node = locked(&open.node);
    let (shm, slots) = (&mut node.shm, first as usize..(first + n) as usize);
    let exclusive = flags & ffi::SQLITE_SHM_EXCLUSIVE != 0;
    if flags & ffi::SQLITE_SHM_UNLOCK != 0 {
        for i in slots {
            shm.shared[i] -= u32::from(std::mem::take(&mut open.shm_shared[i]));
            shm.exclusive[i] &= !std::mem::take(&mut open.shm_exclusive[i]);
        }
        return ffi::SQLITE_OK;
    }
    for i in slots.clone() {
        let others = shm.shared[i] - u32::from(open.shm_shared[i]);
        let taken = shm.exclusive[i] && !open.shm_exclusive[i];
        if taken || exclusive && others > 0 {
            return ffi::SQLITE_BUSY;
        }
    }
    for i in slots {
        match exclusive {
            true => {
                open.shm_exclusive[i] = true;
                shm.exclusive[i] = true;
            }
            false => shm.shared[i] += u32::from(!std::mem::replace(&mut open.shm_shared[i], true)),
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_barrier(_: *mut ffi::sqlite3_file) {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, _delete: c_int) -> c_int {
    // SAFETY: as above.
    let open = unsafe { of(file) };
    if !std::mem::take(&mut open.mapped) {
        return ffi::SQLITE_OK;
    }
    let mut node = locked(&open.node);
    for i in 0..SLOTS {
        node.shm.shared[i] -= u32::from(std::mem::take(&mut open.shm_shared[i]));
        node.shm.exclusive[i] &= !std::mem::take(&mut open.shm_exclusive[i]);
    }
    node.shm.users -= 1;
    if node.shm.users == 0 {
        // The next one to open it finds it empty and recovers.
        node.shm = Shm::default();
    }
    ffi::SQLITE_OK
}
