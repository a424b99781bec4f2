#![no_main]
//! See `litestream_fuzz::arguments`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| litestream_fuzz::arguments(data));
