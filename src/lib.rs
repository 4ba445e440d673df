//! The process around the shards: the command line, the configuration, the log, and what the
//! node does beside carrying messages.
//!
//! `main` reads as a table of contents; each module here is one line of it.
#![forbid(unsafe_code)]

pub mod auth;
pub mod cli;
pub mod config;
pub mod greeting;
pub mod hub;
pub mod log;
pub mod node;
pub mod signals;
