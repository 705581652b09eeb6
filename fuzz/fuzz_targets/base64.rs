#![no_main]
#![allow(unsafe_code)] // in the macro

libfuzzer_sys::fuzz_target!(
    init: { bursar_fuzz::write_seeds("base64") },
    |data: &[u8]| (bursar_fuzz::target("base64").check)(data)
);
