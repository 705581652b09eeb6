#![no_main]
#![allow(unsafe_code)] // in the macro

libfuzzer_sys::fuzz_target!(
    init: { bursar_fuzz::write_seeds("answer") },
    |data: &[u8]| (bursar_fuzz::target("answer").check)(data)
);
