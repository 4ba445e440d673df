//! What the kernel says about this process.

use std::{fs, time::Duration};

use crate::stats::exposition::Exposition;

/// Clock ticks per second in `/proc`: a constant of Linux's interface to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// Resident memory, bytes; `None` where there is no `/proc`.
pub fn memory_bytes() -> Option<u64> {
    const KIB: u64 = 1024;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * KIB)
}

/// Processor time used by all threads, user and system.
pub fn cpu_time() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    let ticks = times.next()?.ok()? + times.next()?.ok()?;
    Some(Duration::from_secs_f64(ticks / TICKS_PER_SECOND))
}

/// Descriptors open, and how many may be. Since Linux 6.2 the directory's size is their number;
/// to walk through it takes almost a microsecond for each client.
pub fn descriptors() -> Option<(u64, u64)> {
    let directory = "/proc/self/fd";
    let open = match fs::metadata(directory).ok()?.len() {
        0 => fs::read_dir(directory).ok()?.count() as u64,
        open => open,
    };
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    Some((open, line.split_whitespace().next()?.parse().unwrap_or(u64::MAX)))
}

/// The families that Prometheus's own libraries have for a process, under their names.
pub(crate) fn write(text: &mut Exposition) {
    if let Some(time) = cpu_time() {
        text.counter("process_cpu_seconds", "Processor time used.");
        text.sample(&[], time.as_secs_f64());
    }
    if let Some(bytes) = memory_bytes() {
        text.gauge("process_resident_memory_bytes", "Resident memory.");
        text.sample(&[], bytes as f64);
    }
    if let Some((open, limit)) = descriptors() {
        text.gauge("process_open_fds", "Descriptors open.");
        text.sample(&[], open as f64);
        text.gauge("process_max_fds", "Descriptors that may be open.");
        text.sample(&[], limit as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_this_process_are_plausible() {
        assert!(memory_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert!(descriptors().is_some_and(|(open, limit)| open > 2 && open <= limit));
        assert!(cpu_time().is_some());
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null")).collect();
        let open = descriptors().map_or(0, |(open, _)| open);
        assert!(files.iter().all(Result::is_ok) && open > 50, "{open}");
    }
}
