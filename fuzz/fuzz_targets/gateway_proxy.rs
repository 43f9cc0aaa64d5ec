#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    carillon_gateway::fuzzing::proxy_header(bytes);
});
