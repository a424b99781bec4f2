#![no_main]
//! See `litestream_fuzz::apply_wal`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| litestream_fuzz::apply_wal(data));
