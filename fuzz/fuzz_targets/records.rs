#![no_main]
//! See `litestream_fuzz::records`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| litestream_fuzz::records(data));
