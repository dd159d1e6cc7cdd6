//! See `evermq::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| evermq::frontend::mqtt::probe::connection(bytes));
