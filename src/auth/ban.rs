//! Who is kept out for a while: by address, user or Client Identifier; put on the list by
//! hand, or for failing or flapping.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::address::Network;
use super::credentials::Credentials;

/// Bans at a time; more are not taken, the list has to be short to be looked through.
const COUNT_MAX: usize = 10_000;
/// Names and addresses whose failures are counted at a time, in each of two generations.
const COUNTED_MAX: usize = 50_000;

/// Whom a ban keeps out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Address(Network),
    User(Box<str>),
    Client(Box<str>),
}

/// `address:10.0.0.0/8`, `user:roger` or `client:sensor-1`.
impl FromStr for Target {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(':').ok_or(())? {
            ("address", network) => network.parse().map(Self::Address),
            ("user", name) if !name.is_empty() => Ok(Self::User(name.into())),
            ("client", name) if !name.is_empty() => Ok(Self::Client(name.into())),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(network) => write!(f, "address:{network}"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Client(name) => write!(f, "client:{name}"),
        }
    }
}

/// Whom a ban hits when it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Who connects from now on. For addresses that fail: who is connected from there has shown
    /// who it is, and need not pay for a neighbour.
    Newcomers,
    /// Who is connected as well.
    Everyone,
}

impl Reach {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Newcomers => "newcomers",
            Self::Everyone => "everyone",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::Newcomers, Self::Everyone].into_iter().find(|reach| reach.word() == word)
    }
}

/// How long a target is on the list, and who put it there.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// `None`: until it is taken off.
    until: Option<Instant>,
    reach: Reach,
    /// The configuration says so: no group and no operator takes it off.
    is_configured: bool,
}

impl Entry {
    fn holds(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    fn left(&self, now: Instant) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(now))
    }
}

/// The ban list. Scope: node.
#[derive(Debug, Default)]
pub(crate) struct Bans {
    exact: HashMap<Target, Entry>,
    /// Networks of more than one address, looked through in turn.
    networks: Vec<(Network, Entry)>,
}

impl Bans {
    /// Puts `target` on the list; `false` if the list is full.
    pub(crate) fn add(&mut self, target: Target, until: Option<Instant>, reach: Reach) -> bool {
        self.put(target, Entry { until, reach, is_configured: false })
    }

    /// Puts `target` on the list for as long as the node runs.
    pub(crate) fn add_configured(&mut self, target: Target) -> bool {
        self.put(target, Entry { until: None, reach: Reach::Everyone, is_configured: true })
    }

    fn put(&mut self, target: Target, entry: Entry) -> bool {
        if self.entry(&target).is_some_and(|known| known.is_configured) {
            return true;
        }
        if self.len() >= COUNT_MAX {
            return false;
        }
        match target {
            Target::Address(network) if !is_one(&network) => {
                self.networks.retain(|(other, _)| *other != network);
                self.networks.push((network, entry));
            }
            target => {
                self.exact.insert(target, entry);
            }
        }
        true
    }

    /// Makes the configuration's part of the list these; who is new on it.
    pub(crate) fn configure(&mut self, targets: &[Target]) -> Vec<Target> {
        let stays =
            |target: &Target, entry: &Entry| !entry.is_configured || targets.contains(target);
        self.exact.retain(|target, entry| stays(target, entry));
        self.networks.retain(|(net, entry)| stays(&Target::Address(*net), entry));
        let is_configured =
            |bans: &Self, target| bans.entry(target).is_some_and(|entry| entry.is_configured);
        let new: Vec<Target> =
            targets.iter().filter(|target| !is_configured(self, target)).cloned().collect();
        for target in &new {
            self.add_configured(target.clone());
        }
        new
    }

    pub(crate) fn len(&self) -> usize {
        self.exact.len() + self.networks.len()
    }

    fn entry(&self, target: &Target) -> Option<&Entry> {
        let of_network = || match target {
            Target::Address(wanted) => {
                self.networks.iter().find(|(net, _)| net == wanted).map(|(_, entry)| entry)
            }
            _ => None,
        };
        self.exact.get(target).or_else(of_network)
    }

    /// Takes `target` off the list; `false` if it was not on it, or stays by configuration.
    pub(crate) fn remove(&mut self, target: &Target) -> bool {
        if self.entry(target).is_none_or(|entry| entry.is_configured) {
            return false;
        }
        if let Target::Address(network) = target {
            self.networks.retain(|(other, _)| other != network);
        }
        self.exact.remove(target);
        true
    }

    /// Makes the list, but for the configuration's part, what the group has; who is new on it and
    /// to go if connected.
    pub(crate) fn follow(
        &mut self,
        group: &HashMap<Target, (Option<Duration>, Reach)>,
        now: Instant,
    ) -> Vec<Target> {
        let stays =
            |target: &Target, entry: &Entry| entry.is_configured || group.contains_key(target);
        self.exact.retain(|target, entry| stays(target, entry));
        self.networks.retain(|(net, entry)| stays(&Target::Address(*net), entry));
        let mut new = Vec::new();
        for (target, (time, reach)) in group {
            let is_new = self.entry(target).is_none();
            let until = time.and_then(|time| now.checked_add(time));
            let is_listed = self.add(target.clone(), until, *reach);
            if is_listed && is_new && *reach == Reach::Everyone {
                new.push(target.clone());
            }
        }
        new
    }

    /// Whether this client is not to be let in.
    pub(crate) fn is_banned(&self, who: &Credentials, now: Instant) -> bool {
        self.finds(who, |entry| entry.holds(now))
    }

    /// Whether this client is to go though it is connected.
    pub(crate) fn must_go(&self, who: &Credentials, now: Instant) -> bool {
        self.finds(who, |entry| entry.holds(now) && entry.reach == Reach::Everyone)
    }

    fn finds(&self, who: &Credentials, is_meant: impl Fn(&Entry) -> bool) -> bool {
        if self.len() == 0 {
            return false;
        }
        let listed = |target| self.exact.get(&target).is_some_and(&is_meant);
        let by_address = who.address.is_some_and(|address| {
            let mut networks = self.networks.iter();
            listed(Target::Address(address.into()))
                || networks.any(|(net, entry)| net.contains(address) && is_meant(entry))
        });
        by_address
            || who.user.as_ref().is_some_and(|user| listed(Target::User(user.clone())))
            || listed(Target::Client(who.client.clone()))
    }

    /// Forgets what has run out.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.exact.retain(|_, entry| entry.holds(now));
        self.networks.retain(|(_, entry)| entry.holds(now));
    }

    /// Everyone on the list, and for how long from `now` on.
    pub(crate) fn list(&self, now: Instant) -> Vec<(Target, Option<Duration>)> {
        self.entries().map(|(target, entry)| (target, entry.left(now))).collect()
    }

    /// Those of the list that the group has, or should have.
    pub(crate) fn common(&self, now: Instant) -> Vec<(Target, Option<Duration>, Reach)> {
        let common = self.entries().filter(|(_, entry)| !entry.is_configured);
        common.map(|(target, entry)| (target, entry.left(now), entry.reach)).collect()
    }

    fn entries(&self) -> impl Iterator<Item = (Target, &Entry)> {
        let exact = self.exact.iter().map(|(target, entry)| (target.clone(), entry));
        let networks = self.networks.iter().map(|(net, entry)| (Target::Address(*net), entry));
        exact.chain(networks)
    }
}

fn is_one(network: &Network) -> bool {
    !network.to_string().contains('/')
}

/// Counts what should not happen often, by name. Scope: node.
#[derive(Debug)]
pub(crate) struct Strikes<K> {
    counts: HashMap<K, (u32, Instant)>,
    old: HashMap<K, (u32, Instant)>,
    /// 0: never strikes out.
    count_max: u32,
    window: Duration,
}

impl<K: std::hash::Hash + Eq> Strikes<K> {
    pub(crate) fn new(count_max: u32, window: Duration) -> Self {
        Self { counts: HashMap::new(), old: HashMap::new(), count_max, window }
    }

    /// Counts by these from now on; what was counted counts.
    pub(crate) fn set(&mut self, count_max: u32, window: Duration) {
        (self.count_max, self.window) = (count_max, window);
    }

    /// Counts one more; `true` if that makes `count_max` within the window.
    pub(crate) fn strike(&mut self, key: K, now: Instant) -> bool {
        if self.count_max == 0 {
            return false;
        }
        if self.counts.len() >= COUNTED_MAX {
            self.old = std::mem::take(&mut self.counts);
        }
        let before = self.counts.get(&key).or_else(|| self.old.get(&key)).copied();
        let (count, since) = before
            .filter(|(_, since)| now.saturating_duration_since(*since) < self.window)
            .unwrap_or((0, now));
        if count + 1 >= self.count_max {
            self.counts.remove(&key);
            self.old.remove(&key);
            return true;
        }
        self.counts.insert(key, (count + 1, since));
        false
    }
}

/// Failures are counted by address, reconnects by Client Identifier.
pub(crate) type Failures = Strikes<IpAddr>;
pub(crate) type Flaps = Strikes<Box<str>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn who(address: &str, user: &str, client: &str) -> Credentials {
        Credentials {
            address: address.parse().ok(),
            user: Some(user.into()),
            client: client.into(),
            ..Credentials::default()
        }
    }

    #[test]
    fn a_ban_holds_for_its_target_until_it_ends() {
        let mut bans = Bans::default();
        let now = Instant::now();
        let until = now + Duration::from_secs(60);
        for target in ["address:10.0.0.0/8", "address:1.2.3.4", "user:eve", "client:c1"] {
            let reach = Reach::Newcomers;
            assert!(bans.add(target.parse().expect(target), Some(until), reach), "{target}");
        }
        let clients = [
            (who("10.9.9.9", "a", "b"), true),
            (who("1.2.3.4", "a", "b"), true),
            (who("1.2.3.5", "a", "b"), false),
            (who("1.2.3.5", "eve", "b"), true),
            (who("1.2.3.5", "a", "c1"), true),
        ];
        for (client, expected) in &clients {
            assert_eq!(bans.is_banned(client, now), *expected, "{client:?}");
            assert!(!bans.must_go(client, now), "{client:?}");
            assert!(!bans.is_banned(client, until), "{client:?}");
        }
        assert_eq!(bans.list(now).len(), 4);
        assert!(bans.remove(&"address:10.0.0.0/8".parse().expect("a target")));
        assert!(!bans.is_banned(&clients[0].0, now));
        bans.sweep(until);
        assert!(bans.list(until).is_empty());
    }

    #[test]
    fn the_groups_list_is_followed_but_for_what_is_configured() {
        let target = |text: &str| text.parse::<Target>().expect("a target");
        let (mut bans, now) = (Bans::default(), Instant::now());
        bans.add_configured(target("user:fixed"));
        bans.add(target("user:old"), None, Reach::Everyone);
        bans.add(target("address:10.0.0.0/8"), None, Reach::Newcomers);
        let time = Some(Duration::from_secs(9));
        let to_go = (time, Reach::Everyone);
        let group = HashMap::from([
            (target("user:new"), to_go),
            (target("user:fixed"), to_go),
            (target("client:c"), (time, Reach::Newcomers)),
        ]);
        assert_eq!(bans.follow(&group, now), [target("user:new")]);
        let mut list: Vec<String> =
            bans.list(now).iter().map(|(target, left)| format!("{target} {left:?}")).collect();
        list.sort();
        assert_eq!(list, ["client:c Some(9s)", "user:fixed None", "user:new Some(9s)"]);
        assert!(!bans.remove(&target("user:fixed")) && bans.remove(&target("user:new")));
        assert_eq!(bans.common(now).len(), 1);
    }

    #[test]
    fn the_configurations_part_of_the_list_changes_and_the_rest_stays() {
        let target = |text: &str| text.parse::<Target>().expect("a target");
        let (mut bans, now) = (Bans::default(), Instant::now());
        let first = [target("user:a"), target("address:10.0.0.0/8")];
        assert_eq!(bans.configure(&first), first);
        bans.add(target("client:c"), None, Reach::Everyone);
        let second = [target("user:a"), target("user:b")];
        assert_eq!(bans.configure(&second), [target("user:b")]);
        let mut list: Vec<String> =
            bans.list(now).iter().map(|(target, _)| target.to_string()).collect();
        list.sort();
        assert_eq!(list, ["client:c", "user:a", "user:b"]);
        assert!(bans.configure(&[]).is_empty() && bans.len() == 1);
    }

    #[test]
    fn so_many_failures_within_the_window_strike_out() {
        let mut failures = Failures::new(3, Duration::from_secs(10));
        let (address, now) = ("1.2.3.4".parse().expect("an address"), Instant::now());
        assert!(!failures.strike(address, now) && !failures.strike(address, now));
        assert!(failures.strike(address, now + Duration::from_secs(9)));
        assert!(!failures.strike(address, now + Duration::from_secs(9)), "counted anew");
        let late = now + Duration::from_secs(30);
        assert!(!failures.strike(address, late));
        assert!(!failures.strike(address, late + Duration::from_secs(11)), "the window is over");
    }

    #[test]
    fn targets_are_read_and_written() {
        for text in ["address:10.0.0.0/8", "address:::1", "user:a:b", "client:c"] {
            assert_eq!(text.parse::<Target>().expect(text).to_string(), text);
        }
        for bad in ["", "address:x", "user:", "group:a", "10.0.0.0/8"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
