#![no_main]
#![allow(unsafe_code)] // in the macro

libfuzzer_sys::fuzz_target!(
    init: { bursar_fuzz::write_seeds("signed_note") },
    |data: &[u8]| (bursar_fuzz::target("signed_note").check)(data)
);
