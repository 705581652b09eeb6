#![no_main]
#![allow(unsafe_code)] // in the macro

libfuzzer_sys::fuzz_target!(
    init: { bursar_fuzz::write_seeds("json") },
    |data: &[u8]| (bursar_fuzz::target("json").check)(data)
);
