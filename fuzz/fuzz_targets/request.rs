#![no_main]
#![allow(unsafe_code)] // in the macro

libfuzzer_sys::fuzz_target!(
    init: { bursar_fuzz::write_seeds("request") },
    |data: &[u8]| (bursar_fuzz::target("request").check)(data)
);
