#![no_main]
//! See `litestream_fuzz::position`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| litestream_fuzz::position(data));
