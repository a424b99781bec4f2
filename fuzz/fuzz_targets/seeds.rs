//! Writes the inputs that each target begins with into the folder given, one folder for each.

// For what the instrumentation calls.
use libfuzzer_sys as _;

fn main() {
    let folder = std::env::args_os().nth(1).expect("the folder of the corpus");
    litestream_fuzz::seeds::write(folder.as_ref());
}
