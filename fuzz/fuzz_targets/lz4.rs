#![no_main]
//! See `litestream_fuzz::lz4`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| litestream_fuzz::lz4(data));
