#![no_main]
#![allow(unsafe_code)] // in the macro

libfuzzer_sys::fuzz_target!(
    init: { bursar_fuzz::write_seeds("mpp_request") },
    |data: &[u8]| (bursar_fuzz::target("mpp_request").check)(data)
);
