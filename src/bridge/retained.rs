//! Retained messages of the group: how a node that was away catches up.
//!
//! Every change is an entry of one log in Redis, and the values stand in a hash beside it,
//! written in one step. The log's order is the one order: every node applies every change in
//! it, so all end with the same. A node notes how far it has read; if the log does not reach
//! back that far it reads the values as a whole, and if Redis does not even reach as far as
//! the node does, Redis has forgotten, and the node gives back what it holds.

use std::collections::HashMap;

use redis::Value;

use super::work::{Event, Work};

/// What a node finds when it compares its place in the log with Redis.
#[derive(Debug)]
pub enum Catch {
    /// The log goes on where we left it, and reaches to `upto` by now.
    Up { at: String, upto: String },
    /// All values, to replace what we hold; the log goes on behind `at`. `old`: what the
    /// predecessor kept, which counts for topics without a value.
    Load { at: String, values: HashMap<String, Vec<u8>>, old: HashMap<String, Vec<u8>> },
    /// Redis knows less than we: restore, then read the log from its beginning.
    Restore,
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Id(u64, u64);

impl Id {
    fn parse(text: &str) -> Self {
        let (ms, number) = text.split_once('-').unwrap_or((text, "0"));
        Self(ms.parse().unwrap_or(0), number.parse().unwrap_or(0))
    }
}

/// Whether a log that is read up to `place` is read up to `upto`.
pub(super) fn is_reached(place: &str, upto: &str) -> bool {
    Id::parse(place) >= Id::parse(upto)
}

impl Work {
    /// Compares our place in the log with Redis; `None`: we have none yet.
    pub async fn catch_up(self, place: Option<String>) {
        loop {
            if let Some(catch) = self.compare(place.as_deref()).await {
                // Nobody listens any more: the node is stopping.
                let _ = self.events.send(Event::Catch(catch)).await;
                return;
            }
            if !self.link.wait_up(std::time::Duration::from_secs(3600)).await {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    pub(super) async fn compare(&self, place: Option<&str>) -> Option<Catch> {
        let mut info = redis::cmd("XINFO");
        info.arg("STREAM").arg(self.keys.retained_log());
        let info: HashMap<String, Value> = match self.link.command(&info).await {
            Ok(info) => info,
            Err(error) if error.is_of_the_link() => return None,
            // There is no such stream.
            Err(_) => HashMap::new(),
        };
        let last = field(&info, "last-generated-id");
        let forgotten = field(&info, "max-deleted-entry-id");
        match place {
            Some(place) if Id::parse(place) > Id::parse(&last) => Some(Catch::Restore),
            Some(place) if Id::parse(place) >= Id::parse(&forgotten) => {
                Some(Catch::Up { at: place.to_owned(), upto: last })
            }
            _ => self.load(last).await,
        }
    }

    async fn load(&self, at: String) -> Option<Catch> {
        let values = self.all(self.keys.retained()).await?;
        let old = self.all(self.keys.old_retained()).await?;
        Some(Catch::Load { at, values, old })
    }

    /// A hash, read in slices so that Redis serves others between.
    async fn all(&self, key: String) -> Option<HashMap<String, Vec<u8>>> {
        let mut all = HashMap::new();
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(&key).arg(cursor).arg("COUNT").arg(1000);
            let (next, slice): (u64, Vec<(String, Vec<u8>)>) =
                self.link.command(&scan).await.ok()?;
            all.extend(slice);
            cursor = next;
            if cursor == 0 {
                return Some(all);
            }
        }
    }
}

fn field(info: &HashMap<String, Value>, name: &str) -> String {
    match info.get(name) {
        Some(Value::BulkString(id)) => String::from_utf8_lossy(id).into_owned(),
        Some(Value::SimpleString(id)) => id.clone(),
        _ => "0-0".to_owned(),
    }
}

/// A change of the log that this node has not yet seen come back, by topic. While there is
/// one, what others wrote before it is not applied here: ours comes after it.
#[derive(Debug, Default)]
pub struct Pending(HashMap<Box<str>, u32>);

impl Pending {
    pub fn sent(&mut self, topic: &str) {
        *self.0.entry(topic.into()).or_default() += 1;
    }

    pub fn came_back(&mut self, topic: &str) {
        if let Some(count) = self.0.get_mut(topic) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(topic);
            }
        }
    }

    pub fn is_pending(&self, topic: &str) -> bool {
        self.0.contains_key(topic)
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_ordered_by_number_and_not_by_text() {
        assert!(Id::parse("9-1") < Id::parse("10-0"));
        assert!(Id::parse("10-9") < Id::parse("10-10"));
        assert_eq!(Id::parse("0-0"), Id::default());
    }

    #[test]
    fn a_change_is_pending_until_the_last_of_its_topic_came_back() {
        let mut pending = Pending::default();
        pending.sent("a");
        pending.sent("a");
        pending.came_back("a");
        assert!(pending.is_pending("a"));
        pending.came_back("a");
        pending.came_back("a");
        assert!(!pending.is_pending("a"));
    }
}
