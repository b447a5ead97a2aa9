#![no_main]

mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    properties::configuration(data);
});
