#![no_main]
//! See `litestream_fuzz::request`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| litestream_fuzz::request(data));
