#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    carillon_gateway::fuzzing::json(text);
});
