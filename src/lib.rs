//! The process around the shards: the command line, the configuration, the log, and what the
//! node does beside carrying messages.
//!
//! `main` reads as a table of contents; each module here is one line of it.
#![forbid(unsafe_code)]

pub mod auth;
pub mod bridge;
pub mod certificates;
pub mod cli;
pub mod config;
pub mod greeting;
pub mod http;
pub mod hub;
pub mod link;
pub mod log;
pub mod node;
pub mod operate;
pub mod pages;
pub mod process;
pub mod reload;
pub mod signals;
pub mod stats;
pub mod store;
pub mod systemd;
mod watched;
