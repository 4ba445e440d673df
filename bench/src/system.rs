//! What the generator asks of the machine: clock, cores, limits, and what a process has used.

use std::{fs, io};

use rustix::{
    process::{Resource, getrlimit, setrlimit},
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// Nanoseconds of the machine's monotonic clock.
pub(crate) fn now_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// CPU time this whole process has used, in nanoseconds.
pub(crate) fn own_cpu_ns() -> u64 {
    nanoseconds(ClockId::ProcessCPUTime)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Raises the limit on open files to what the machine allows and returns it.
pub(crate) fn raise_open_files() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Not being allowed to is no error yet: the connections may fit all the same.
    let _ = setrlimit(Resource::Nofile, limit);
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    reserve_descriptors(limit);
    limit
}

/// Has the kernel make room for many descriptors at once. Else a storm of connections makes it
/// double the table several times, and waits 10 ms and more for each.
fn reserve_descriptors(limit: u64) {
    let last = limit.min(64 << 10).saturating_sub(1) as i32;
    // Without it the generator is slower, not wrong.
    let _ = rustix::io::fcntl_dupfd_cloexec(io::stdin(), last);
}

/// Lets the calling thread, and what it starts from now on, run on these cores only.
///
/// # Errors
/// As `sched_setaffinity`: a core that is absent or not allowed.
pub(crate) fn pin(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    Ok(sched_setaffinity(None, &set)?)
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Scheduled time of all its living threads, nanoseconds.
    pub cpu_ns: u64,
    /// Ticks in user and in system mode; coarse, only good for their ratio.
    pub user_ticks: u64,
    pub system_ticks: u64,
    /// Resident set, bytes.
    pub resident_bytes: u64,
}

impl Usage {
    /// Reads the use of process `pid`.
    ///
    /// # Errors
    /// If the process is gone.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (user_ticks, system_ticks) = ticks(&stat).unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let mut cpu_ns = 0;
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end while we look; the others still count.
            let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            cpu_ns += first_number(&text).unwrap_or(0);
        }
        let resident_bytes = resident_kib(&status).unwrap_or(0) * 1024;
        Ok(Self { cpu_ns, user_ticks, system_ticks, resident_bytes })
    }

    /// What was used from `earlier` to `self`; the resident set is that of `self`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            user_ticks: self.user_ticks.saturating_sub(earlier.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(earlier.system_ticks),
            resident_bytes: self.resident_bytes,
        }
    }

    /// The part of the CPU time spent in user mode, 0 to 1.
    pub(crate) fn user_share(&self) -> f64 {
        self.user_ticks as f64 / (self.user_ticks + self.system_ticks).max(1) as f64
    }
}

/// `utime` and `stime` of `/proc/PID/stat`: fields 14 and 15, counted after the name, which may
/// itself hold spaces and brackets.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn resident_kib(status: &str) -> Option<u64> {
    first_number(status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?)
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// One line on the machine: processor, cores, kernel.
pub(crate) fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, name)| name);
    let cores = info.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = rustix::system::uname();
    format!("{model}, {cores} cores, Linux {}", kernel.release().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_process_name() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 1234 567 0 0 20 0 1";
        assert_eq!(ticks(stat), Some((1234, 567)));
        assert_eq!(ticks("42 (cut"), None);
    }

    #[test]
    fn resident_memory_is_read_in_kib() {
        assert_eq!(resident_kib("Name:\tx\nVmRSS:\t  5120 kB\n"), Some(5120));
        assert_eq!(resident_kib("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let usage = Usage::of(std::process::id()).expect("our own process exists");
        assert!(usage.resident_bytes > 0);
        assert!(own_cpu_ns() > 0);
    }
}
