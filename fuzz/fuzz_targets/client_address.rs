#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    carillon_client::fuzzing::address(text);
});
