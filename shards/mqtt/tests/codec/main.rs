//! The codec from outside, as the engine and the clients use it. One test binary.

mod fuzz;
mod malformed;
mod properties;
mod publish_raw;
mod round_trip;
mod samples;
mod topics;
