//! Which machine this is, and the memory of a process on it.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::Result;
use super::options::Options;

/// Hardware, software and options, as the results keep them.
pub fn facts(options: &Options) -> Value {
    let memory_kib = field("/proc/meminfo", "MemTotal").map_or(0, |text| leading_number(&text));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "processor": field("/proc/cpuinfo", "model name").unwrap_or_default(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory_mib": memory_kib / 1024,
        "kernel": format!("Linux {}", kernel.trim()),
        "file_system": file_system(options),
        "load_average": load_average(),
    })
}

/// A paragraph on these facts.
pub fn describe(facts: &Value, options: &Options) -> String {
    let text = |name: &str| facts[name].as_str().unwrap_or_default().to_owned();
    format!(
        "{}, {} cores used, {} MiB of memory, {}, {}, SQLite {}.\nLoad average: {}. \
         Runs: {}. Databases in {}.\nLibrary: {}.",
        text("processor"),
        facts["cores"],
        facts["memory_mib"],
        text("kernel"),
        text("file_system"),
        rusqlite::version(),
        text("load_average"),
        options.runs,
        options.dir.display(),
        options.library.display(),
    )
}

/// The machine's load average, to tell a calm machine from a busy one.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Keeps this process, and so all its workers, on two cores: replication has to share them with the writer.
pub fn pin_to_two_cores() {
    if std::thread::available_parallelism().map_or(0, usize::from) <= 2 {
        return;
    }
    let pinned = Command::new("taskset").args(["-a", "-c", "-p", "0,1", &std::process::id().to_string()]).output();
    if !pinned.is_ok_and(|output| output.status.success()) {
        eprintln!("bench: cannot pin to two cores (taskset); the processes have all of them");
    }
}

/// The largest resident memory that a process has had so far, in bytes; none when it has ended.
pub fn peak_of(process: u32) -> Option<u64> {
    field(&format!("/proc/{process}/status"), "VmHWM").map(|text| leading_number(&text) * 1024)
}

/// Resident memory of this process in bytes: now, and at its peak since [`forget_peak`].
pub fn memory() -> Result<(u64, u64)> {
    let read = |name| field("/proc/self/status", name).map(|text| leading_number(&text) * 1024);
    Ok((read("VmRSS").ok_or("no VmRSS")?, read("VmHWM").ok_or("no VmHWM")?))
}

/// Makes the peak start again from what is resident now.
pub fn forget_peak() -> Result<()> {
    Ok(fs::write("/proc/self/clear_refs", "5")?)
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let (_, value) = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name)?;
    Some(value.trim().to_owned())
}

fn leading_number(text: &str) -> u64 {
    text.split(' ').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Kind and device of the file system that holds the databases.
fn file_system(options: &Options) -> String {
    let output = Command::new("df").arg("--output=fstype,source").arg(options.dir.as_os_str()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let columns = text.lines().nth(1).unwrap_or("unknown file system");
    columns.split_whitespace().collect::<Vec<_>>().join(" on ")
}
