#![no_main]
#![allow(unsafe_code)] // in the macro

libfuzzer_sys::fuzz_target!(
    init: { bursar_fuzz::write_seeds("x402_v1") },
    |data: &[u8]| (bursar_fuzz::target("x402_v1").check)(data)
);
