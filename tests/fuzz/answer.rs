#![no_main]

mod sdk;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    sdk::answer(data);
});
