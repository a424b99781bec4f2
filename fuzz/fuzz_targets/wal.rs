#![no_main]
//! See `litestream_fuzz::wal`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| litestream_fuzz::wal(data));
