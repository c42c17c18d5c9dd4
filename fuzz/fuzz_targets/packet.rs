//! The parser must answer every shape of input, and its entries must agree where they read the same.
#![no_main]

#[path = "../../redirect-common/tests/shape/mod.rs"]
mod shape;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shape::hold(bytes));
