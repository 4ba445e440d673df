//! Any bytes into the decoder: no panic, and what decodes is the same after encoding it again.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| octopus_mqtt::fuzz_decode(bytes));
