//! What the kernel says about this process.

use std::fs;

/// Resident memory, bytes; `None` where there is no `/proc`.
pub fn memory_bytes() -> Option<u64> {
    const PAGE_BYTES: u64 = 4096;
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let resident_pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(resident_pages * PAGE_BYTES)
}
