//! What a node left in its inbox when it went: acknowledged to its publishers, and not yet
//! taken in by its shards. For whoever takes its sessions over, before the node is forgotten
//! ([`super::members::Members::forget`]), which removes the inbox.

use std::collections::HashMap;

use redis::Value;

use super::{
    keys::Keys,
    link::{Link, LinkError},
    rules::Seen,
    wire::{self, Clock, Record},
    work::{entry_of, next_id},
};

/// Entries read at a time.
const SLICE_COUNT: usize = 500;

/// The messages in `node`'s inbox, in the order they were written, without those that its
/// shards had taken. Cost: the inbox, once; it is read in slices.
///
/// A message that the node had handed to its shards without noting it comes again here: what
/// is taken over must bear that for QoS 1, and know what it has for QoS 2.
pub async fn left_by(
    link: &Link,
    keys: &Keys,
    node: &str,
    clock: Clock,
) -> Result<Vec<Record>, LinkError> {
    let mut command = redis::cmd("HGETALL");
    command.arg(keys.seen(node));
    let mut seen = read_seen(link.command(&command).await?);
    let mut records = Vec::new();
    let mut from = "-".to_owned();
    loop {
        let mut command = redis::cmd("XRANGE");
        command.arg(keys.inbox(node)).arg(&from).arg("+").arg("COUNT").arg(SLICE_COUNT);
        let entries: Vec<Value> = link.command(&command).await?;
        let count = entries.len();
        for (id, frame) in entries.into_iter().filter_map(entry_of) {
            from = next_id(&id);
            match wire::messages(&frame, clock) {
                Ok((head, new)) => {
                    let seen = seen.entry(head.origin.to_owned()).or_default();
                    let take = seen.take(head.epoch, head.first, new.len() as u64);
                    records.extend(new.into_iter().skip(take.duplicates as usize));
                }
                Err(error) => tracing::warn!(?error, node, "frame in an inbox not understood"),
            }
        }
        if count < SLICE_COUNT {
            return Ok(records);
        }
    }
}

/// Origin -> `<epoch> <last>`, as it stands in Redis.
pub(super) fn read_seen(found: HashMap<String, String>) -> HashMap<String, Seen> {
    let seen = found.into_iter().filter_map(|(origin, seen)| {
        let (epoch, last) = seen.split_once(' ')?;
        Some((origin, Seen { epoch: epoch.parse().ok()?, last: last.parse().ok()? }))
    });
    seen.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_read_as_it_is_written() {
        let found = [("A", "3 17"), ("B", "half")];
        let found = found.map(|(origin, seen)| (origin.to_owned(), seen.to_owned()));
        let seen = read_seen(found.into());
        assert_eq!(seen, HashMap::from([("A".to_owned(), Seen { epoch: 3, last: 17 })]));
    }
}
