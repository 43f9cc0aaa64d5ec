#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    carillon_storage::fuzzing::snapshot(data);
});
