#![no_main]
//! See `litestream_fuzz::record`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| litestream_fuzz::record(data));
