#![no_main]
//! See `litestream_fuzz::query`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| litestream_fuzz::query(data));
