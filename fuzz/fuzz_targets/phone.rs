#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| hairpin_fuzz::phone::run(input));
