#![no_main]

libfuzzer_sys::fuzz_target!(|given: (&str, &[u8], u64)| {
    let (text, first, size) = given;
    carillon_gateway::fuzzing::media(text, first, size);
});
