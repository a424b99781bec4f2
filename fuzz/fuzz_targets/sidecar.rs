#![no_main]
//! See `litestream_fuzz::sidecar`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| litestream_fuzz::sidecar(data));
