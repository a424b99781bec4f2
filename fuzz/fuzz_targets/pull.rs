#![no_main]
//! See `litestream_fuzz::pull`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| litestream_fuzz::pull(data));
