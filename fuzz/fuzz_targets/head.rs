#![no_main]
//! See `litestream_fuzz::head`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| litestream_fuzz::head(data));
