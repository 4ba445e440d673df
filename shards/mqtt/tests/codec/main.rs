//! The codec from outside, as the engine and the clients use it. One test binary.

mod fuzz;
mod round_trip;
mod samples;
