//! Which core each shard runs on.

use crate::StartError;

/// The cores this process may use (its affinity mask, so `taskset` and cpusets count), at most
/// as many as its CPU quota allows.
pub(crate) fn allowed_cores() -> Result<Vec<usize>, StartError> {
    let cores = core_affinity::get_core_ids().filter(|cores| !cores.is_empty());
    let cores = cores.ok_or(StartError::NoCores)?;
    let quota = std::thread::available_parallelism().map_or(cores.len(), usize::from);
    Ok(cores.into_iter().map(|core| core.id).take(quota).collect())
}

/// One core per shard: `wanted` shards, or one per allowed core. More shards than cores share
/// them in turn.
pub(crate) fn place(wanted: Option<u16>, cores: &[usize]) -> Vec<usize> {
    let count = wanted.map_or(cores.len(), usize::from).clamp(1, u16::MAX.into());
    cores.iter().copied().cycle().take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_fill_the_cores_in_turn() {
        assert_eq!(place(None, &[2, 5]), [2, 5]);
        assert_eq!(place(Some(1), &[2, 5]), [2]);
        assert_eq!(place(Some(3), &[2, 5]), [2, 5, 2]);
        assert_eq!(place(Some(0), &[2]), [2]);
    }
}
