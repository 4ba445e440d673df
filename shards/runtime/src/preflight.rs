//! What must hold before a shard starts, and what to do when it does not: io_uring usable,
//! limits raised. glommio would panic deep inside instead of saying which it is.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use octopus_engine::ShardId;

use crate::listener::Address;
use crate::net;
use crate::wake::Wake;

/// Locked memory that glommio asks for, in bytes.
const MEMLOCK_MIN_BYTES: u64 = 512 << 10;

/// Descriptors that the kernel makes room for at the start, 8 bytes of its memory each.
const DESCRIPTORS_AHEAD: u64 = 64 << 10;

/// Why a node does not start. `Display` says what it is and the remedy.
#[derive(Debug)]
pub enum StartError {
    /// The kernel has no io_uring, or lacks a feature: before 6.1, or switched off at build.
    Kernel { release: Box<str> },
    /// `kernel.io_uring_disabled` is 1 (this user may not) or 2 (nobody may).
    Sysctl { value: u8 },
    /// A seccomp filter forbids it, as containers' default filters do.
    Seccomp,
    /// RLIMIT_MEMLOCK is too low; its hard limit in bytes.
    LockedMemory { hard_bytes: u64 },
    /// Any other failure of the probe.
    Ring(io::Error),
    /// The system tells no core that this process may use.
    NoCores,
    /// A listener could not be bound.
    Bind { address: Address, cause: io::Error },
    /// A shard's thread did not come up.
    Shard { shard: ShardId, cause: Box<str> },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel { release } => write!(
                f,
                "this kernel ({release}) does not offer the io_uring that octopus needs: \
                 run Linux 6.1 or newer, built with CONFIG_IO_URING"
            ),
            Self::Sysctl { value: 1 } => write!(
                f,
                "io_uring is reserved for privileged users (kernel.io_uring_disabled = 1): run \
                 `sysctl -w kernel.io_uring_disabled=0`, or add this user's group to \
                 kernel.io_uring_group"
            ),
            Self::Sysctl { value } => write!(
                f,
                "io_uring is switched off (kernel.io_uring_disabled = {value}): run \
                 `sysctl -w kernel.io_uring_disabled=0`"
            ),
            Self::Seccomp => write!(
                f,
                "a seccomp filter forbids io_uring, as Docker's default does: start the \
                 container with `--security-opt seccomp=deploy/seccomp-octopus.json` (or \
                 `seccomp=unconfined`)"
            ),
            Self::LockedMemory { hard_bytes } => write!(
                f,
                "the limit on locked memory is {hard_bytes} bytes, {MEMLOCK_MIN_BYTES} are \
                 needed: raise it (`ulimit -l`, `docker run --ulimit memlock=-1`, or \
                 LimitMEMLOCK= in the unit)"
            ),
            Self::Ring(cause) => write!(f, "io_uring cannot be set up: {cause}"),
            Self::NoCores => write!(f, "the system tells no core this process may run on"),
            Self::Bind { address, cause } if cause.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "{address} is in use: another process listens there (another octopus?); \
                     give this one another port, such as `--broker.port=20001`"
                )
            }
            Self::Bind { address, cause } => write!(f, "cannot listen on {address}: {cause}"),
            Self::Shard { shard, cause } => write!(f, "shard {} did not start: {cause}", shard.0),
        }
    }
}

impl std::error::Error for StartError {}

/// Raises the soft limits on descriptors and locked memory to the hard ones, has room made for
/// many descriptors, and sets up a ring as the shards will.
///
/// Scope: process. [`crate::start`] calls it; a `check` command may as well.
///
/// # Errors
/// Says which of kernel, sysctl, seccomp and RLIMIT_MEMLOCK is in the way.
pub fn preflight() -> Result<(), StartError> {
    reserve_descriptors(raise_limit(libc::RLIMIT_NOFILE));
    let locked_bytes = raise_limit(libc::RLIMIT_MEMLOCK);
    if locked_bytes < MEMLOCK_MIN_BYTES {
        return Err(StartError::LockedMemory { hard_bytes: locked_bytes });
    }
    match net::build(8) {
        Ok(_) => Ok(()),
        Err(error) => Err(explain(error, disabled_sysctl(), &kernel_release(), locked_bytes)),
    }
}

/// Tells from the probe's error and its surroundings what is in the way.
fn explain(error: io::Error, sysctl: Option<u8>, release: &str, locked_bytes: u64) -> StartError {
    match (error.raw_os_error(), sysctl) {
        (Some(libc::EPERM), Some(value @ 1..)) => StartError::Sysctl { value },
        (Some(libc::EPERM | libc::EACCES), _) => StartError::Seccomp,
        // Some container runtimes answer a forbidden call with ENOSYS; a kernel that knows the
        // sysctl (6.6) knows io_uring.
        (Some(libc::ENOSYS), Some(_)) => StartError::Seccomp,
        (Some(libc::ENOSYS | libc::EINVAL), _) => StartError::Kernel { release: release.into() },
        (Some(libc::ENOMEM), _) => StartError::LockedMemory { hard_bytes: locked_bytes },
        _ => StartError::Ring(error),
    }
}

fn disabled_sysctl() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".into(), |release| release.trim().into())
}

/// Raises a soft limit to its hard limit and returns what is in force.
fn raise_limit(resource: libc::__rlimit_resource_t) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one rlimit to the address of `limit`.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 {
        return 0;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: reads one rlimit from the address of `raised`.
    if unsafe { libc::setrlimit(resource, &raw const raised) } == 0 {
        return raised.rlim_cur;
    }
    limit.rlim_cur
}

/// Grows the process's table of descriptors to what it will need. It doubles as connections
/// come, and each time the thread whose accept finds it full waits 10 ms and more until no
/// other thread can still read the old one (bench/results/2026-11-29-tried.md).
fn reserve_descriptors(limit: u64) {
    let last = limit.min(DESCRIPTORS_AHEAD).saturating_sub(1) as libc::c_int;
    // No room, or none so high: then it grows as connections come.
    let Ok(any) = Wake::new() else { return };
    // SAFETY: takes a descriptor and an integer, touches no memory of ours.
    let high = unsafe { libc::fcntl(any.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, last) };
    if high >= 0 {
        // SAFETY: just made by fcntl, owned by nobody else. The table stays when it is closed.
        drop(unsafe { OwnedFd::from_raw_fd(high) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(errno: i32, sysctl: Option<u8>) -> String {
        explain(io::Error::from_raw_os_error(errno), sysctl, "5.10.0", 65536).to_string()
    }

    #[test]
    fn each_refusal_names_its_cause_and_remedy() {
        for (errno, sysctl, words) in [
            (libc::ENOSYS, None, ["5.10.0", "6.1"]),
            (libc::EINVAL, None, ["5.10.0", "6.1"]),
            (libc::ENOSYS, Some(0), ["seccomp", "--security-opt"]),
            (libc::EPERM, Some(2), ["io_uring_disabled = 2", "sysctl -w"]),
            (libc::EPERM, Some(1), ["io_uring_disabled = 1", "io_uring_group"]),
            (
                libc::EPERM,
                Some(0),
                ["seccomp", "--security-opt seccomp=deploy/seccomp-octopus.json"],
            ),
            (libc::EPERM, None, ["seccomp", "--security-opt"]),
            (libc::ENOMEM, Some(0), ["65536", "memlock=-1"]),
            (libc::EIO, Some(0), ["io_uring", "cannot be set up"]),
        ] {
            let text = text(errno, sysctl);
            for word in words {
                assert!(text.contains(word), "{errno}: {text}");
            }
        }
    }

    #[test]
    fn there_is_room_for_many_descriptors_before_they_come() {
        let limit = raise_limit(libc::RLIMIT_NOFILE);
        reserve_descriptors(limit);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        let size: u64 = size.trim().parse().unwrap();
        assert!(size >= limit.min(DESCRIPTORS_AHEAD), "{size} of {limit}");
    }

    #[test]
    fn the_soft_limit_on_descriptors_is_raised() {
        let limit = raise_limit(libc::RLIMIT_NOFILE);
        assert_eq!(raise_limit(libc::RLIMIT_NOFILE), limit);
        assert!(limit > 0);
    }
}
