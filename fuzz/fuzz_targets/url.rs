#![no_main]
//! See `litestream_fuzz::url`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| litestream_fuzz::url(data));
