//! Any sequence of operations of several clients against a node: no panic, and the ledger holds.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| octopus_sim::fuzz_operations(bytes));
