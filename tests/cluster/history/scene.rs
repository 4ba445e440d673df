//! Three nodes, their Redis, wires between them that can be cut, and a cast of clients whose
//! history is judged at the end.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Failed;

use super::{
    super::{
        client::Client,
        group::{Redis, wait},
    },
    actor::{Actor, Role},
    check::{self, Broken, Retained, Rules},
    record::{Event, History, What},
    relay::Relay,
};
use crate::harness::broker::{Process, free_port, own_name};

/// Names of the nodes.
pub(crate) const NODES: [&str; 3] = ["A", "B", "C"];
/// What a takeover may last, and a little for a machine that is busy.
const TAKEOVER_MAX: Duration = Duration::from_millis(2500);
/// How long what was acknowledged may be under way when all is well again.
const ARRIVAL_MAX: Duration = Duration::from_secs(15);
/// Of what is broken, and of a node's log, so much is shown.
const SHOWN_MAX: usize = 12;

/// Everything that is promised is on.
const SETTINGS: &[&str] = &[
    "--broker.group=GROUP1",
    "--broker.storage.session=redis",
    "--broker.storage.subscription=redis",
    "--broker.storage.publish=redis",
    "--cluster.lease=2s",
    "--cluster.hold_time=60s",
    "--stats.interval=1s",
    "--shards=2",
];

/// Who takes part: name, what it does, and the node it begins on.
const CAST: &[(&str, Role, usize)] = &[
    ("pub-a", Role::Publisher, 0),
    ("pub-b", Role::Publisher, 1),
    ("ret-a", Role::Retainer, 0),
    ("ret-c", Role::Retainer, 2),
    ("sub-b", Role::Subscriber, 1),
    ("sub-c", Role::Subscriber, 2),
    (AWAY, Role::Subscriber, 1),
];
/// The same for a shared group, whose members are on the nodes at risk.
pub(super) const CREW: &[(&str, Role, usize)] = &[
    ("boss", Role::Employer, 0),
    ("hand-b", Role::Member, 1),
    ("hand-c", Role::Member, 2),
    (AWAY, Role::Subscriber, 1),
];
/// Not there while things happen.
const AWAY: &str = "sub-away";

/// A place to run a process at: what stands before its command line, and its address.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) prefix: Vec<String>,
    pub(crate) address: Ipv4Addr,
    /// Set for this process only.
    pub(crate) environment: Vec<(String, String)>,
}

impl Place {
    pub(crate) fn here() -> Self {
        Self { prefix: Vec::new(), address: Ipv4Addr::LOCALHOST, environment: Vec::new() }
    }
}

/// A node, running or not.
pub(crate) struct Node {
    pub(super) process: Option<Process>,
    place: Place,
    settings: Vec<String>,
    /// From the clients to the node; `None`: they reach it directly.
    pub(super) door: Option<Relay>,
    /// From the node to Redis.
    pub(super) wire: Option<Relay>,
    address: SocketAddr,
}

impl Node {
    /// - `redis`: how it is told where Redis is, if not by the wire.
    fn start(
        name: &str,
        place: &Place,
        redis: &[String],
        wire: Option<Relay>,
        has_door: bool,
    ) -> Result<Self, Failed> {
        let address = SocketAddr::from((place.address, free_port()));
        let door = has_door.then(|| Relay::to(address)).transpose()?;
        let mut settings: Vec<String> = SETTINGS.iter().map(|&text| text.to_owned()).collect();
        settings.push(format!("--broker.id={name}"));
        settings.push(format!("--broker.host={}", address.ip()));
        settings.push(format!("--broker.port={}", address.port()));
        if let Some(wire) = &wire {
            settings.push("--redis.host=127.0.0.1".to_owned());
            settings.push(format!("--redis.port={}", wire.address().port()));
        }
        settings.extend(redis.iter().cloned());
        let place = place.clone();
        let mut node = Self { process: None, place, settings, door, wire, address };
        node.revive()?;
        Ok(node)
    }

    /// Starts it, again under the same name and address.
    pub(crate) fn revive(&mut self) -> Result<(), Failed> {
        let Place { prefix, environment, .. } = &self.place;
        self.process = Some(Process::start_at(prefix, environment, &self.settings)?);
        Ok(())
    }

    pub(crate) fn running(&self) -> Result<&Process, Failed> {
        self.process.as_ref().ok_or_else(|| "the node does not run".into())
    }
}

/// Where everything is.
pub(crate) struct Stage {
    pub(crate) redis: Redis,
    pub(crate) nodes: Vec<Node>,
}

impl Stage {
    /// All on the loopback, each node behind a wire to Redis and a door to its clients.
    /// A Redis Cluster is reached without a wire, because it tells its own addresses.
    pub(crate) fn with(redis: Redis, environment: &[(String, String)]) -> Result<Self, Failed> {
        let mut nodes = Vec::new();
        let is_sharded = redis.bus().is_some();
        let settings = if is_sharded { redis.settings() } else { Vec::new() };
        for name in NODES {
            let to_redis = SocketAddr::from((Ipv4Addr::LOCALHOST, redis.port()));
            let wire = (!is_sharded).then(|| Relay::to(to_redis)).transpose()?;
            let mut place = Place::here();
            if name == "B" {
                place.environment = environment.to_vec();
            }
            nodes.push(Node::start(name, &place, &settings, wire, true)?);
        }
        Ok(Self { redis, nodes })
    }

    /// - `settings`: where the nodes find Redis.
    pub(crate) fn at(redis: Redis, places: &[Place], settings: &[String]) -> Result<Self, Failed> {
        let mut nodes = Vec::new();
        for (name, place) in NODES.iter().zip(places) {
            nodes.push(Node::start(name, place, settings, None, false)?);
        }
        Ok(Self { redis, nodes })
    }
}

/// Leave to play a history. Each is some ten processes that want more than one core together;
/// of many at a time none keeps its leases, and that is another mishap than the one meant.
struct Turn;

static PLAYING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

impl Turn {
    const AT_ONCE_MAX: usize = 2;

    fn take() -> Self {
        let (count, changed) = &PLAYING;
        let count = count.lock().unwrap_or_else(PoisonError::into_inner);
        let free = changed.wait_while(count, |count| *count >= Self::AT_ONCE_MAX);
        *free.unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (count, changed) = &PLAYING;
        *count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        changed.notify_one();
    }
}

/// A stage with its cast.
pub(crate) struct Scene {
    cast: HashMap<&'static str, Actor>,
    roles: &'static [(&'static str, Role, usize)],
    history: History,
    rules: Rules,
    pub(crate) stage: Stage,
    _turn: Turn,
}

impl Scene {
    /// Everybody is there, hears of everybody, and one subscriber has gone away.
    pub(crate) fn begin(stage: Stage) -> Result<Self, Failed> {
        Self::begin_with(stage, CAST)
    }

    pub(super) fn begin_with(
        stage: Stage,
        roles: &'static [(&'static str, Role, usize)],
    ) -> Result<Self, Failed> {
        let turn = Turn::take();
        let history = History::new();
        let door = |(name, node): (&&str, &Node)| {
            let address = node.door.as_ref().map_or(node.address, Relay::address);
            ((*name).to_owned(), address)
        };
        let doors: Vec<_> = NODES.iter().zip(&stage.nodes).map(door).collect();
        let cast = roles
            .iter()
            .map(|&(id, role, at)| (id, Actor::start(id, role, &doors, at, &history)))
            .collect();
        let subscribers = roles.iter().filter_map(|(id, role, _)| match role {
            Role::Subscriber => Some((*id).to_owned()),
            Role::Member => Some(check::GROUP.to_owned()),
            _ => None,
        });
        let mut subscribers: Vec<String> = subscribers.collect();
        subscribers.dedup();
        let is_publisher = |role: &Role| !matches!(role, Role::Subscriber | Role::Member);
        let publishers = roles.iter().filter(|(_, role, _)| is_publisher(role)).count();
        let rules = Rules { subscribers, takeover_max: TAKEOVER_MAX, mishaps: Vec::new() };
        let scene = Self { cast, roles, history, rules, stage, _turn: turn };
        scene.wait("every subscriber hears every publisher", || {
            let is_acknowledged = scene.acknowledged().len() == publishers;
            let lost = check::lost(&scene.history.events(), &scene.rules);
            Ok(is_acknowledged && !lost.iter().any(|lost| matches!(lost, Broken::Silence { .. })))
        })?;
        scene.actor(AWAY).leave();
        scene.wait_for(&[AWAY])?;
        Ok(scene)
    }

    pub(super) fn actor(&self, id: &str) -> &Actor {
        &self.cast[id]
    }

    /// Until these are connected where they were told to be, and wait for nothing.
    pub(crate) fn wait_for(&self, ids: &[&str]) -> Result<(), Failed> {
        self.wait(&format!("{ids:?} are settled"), || {
            Ok(ids.iter().all(|id| self.actor(id).is_settled()))
        })
    }

    pub(crate) fn node(&mut self, name: &str) -> &mut Node {
        let index = NODES.iter().position(|node| *node == name).expect("a node's name");
        &mut self.stage.nodes[index]
    }

    /// Ends a node as a crash does.
    pub(crate) fn kill(&mut self, name: &str) {
        self.node(name).process = None;
        self.mishap();
    }

    /// From here on a node is not there for its clients.
    pub(crate) fn mishap(&mut self) {
        self.rules.mishaps.push(self.history.now());
    }

    /// Until the node's lease is out.
    pub(crate) fn wait_until_gone(&self, name: &str) -> Result<(), Failed> {
        self.wait_for_lease(name, false)
    }

    /// Until the node has its lease again.
    pub(crate) fn wait_until_there(&self, name: &str) -> Result<(), Failed> {
        self.wait_for_lease(name, true)
    }

    fn wait_for_lease(&self, name: &str, is_held: bool) -> Result<(), Failed> {
        let mut redis = self.stage.redis.connection()?;
        let key = self.stage.redis.key(&format!("GROUP1:NODE:{name}"));
        self.wait(&format!("{name} holds its lease: {is_held}"), || {
            Ok(redis::cmd("EXISTS").arg(&key).query::<bool>(&mut redis)? == is_held)
        })
    }

    /// Until all that dead nodes left is taken over: the group has forgotten them.
    pub(crate) fn wait_until_forgotten(&self) -> Result<(), Failed> {
        let mut redis = self.stage.redis.connection()?;
        let live = self.stage.nodes.iter().filter(|node| node.process.is_some()).count();
        self.wait("only live nodes are in the group", || {
            let key = self.stage.redis.key("GROUP1:V2:NODES");
            let known: usize = redis::cmd("HLEN").arg(key).query(&mut redis)?;
            Ok(known == live)
        })
    }

    /// Until every publisher got `count` more acknowledgements.
    pub(crate) fn go_on(&self, count: usize) -> Result<(), Failed> {
        let before = self.acknowledged();
        self.wait(&format!("each publisher has {count} more acknowledgements"), || {
            let now = self.acknowledged();
            Ok(before.iter().all(|(id, before)| now[id] >= before + count))
        })
    }

    /// Until nobody is without a connection and nothing is without its acknowledgement.
    pub(crate) fn rest(&self) -> Result<(), Failed> {
        self.cast.values().for_each(Actor::rest);
        self.wait("everything is acknowledged", || Ok(self.cast.values().all(Actor::is_settled)))
    }

    /// The publishers go on after a rest.
    pub(crate) fn resume(&self) {
        self.cast.values().for_each(Actor::resume);
    }

    /// Until nothing that was acknowledged stands in Redis alone: the nodes have taken it in.
    pub(crate) fn wait_taken_in(&self) -> Result<(), Failed> {
        let mut redis = self.stage.redis.connection()?;
        self.wait("every inbox is empty", || {
            let mut count = 0;
            let pattern = self.stage.redis.key("GROUP1:V2:INBOX:*");
            let inboxes: Vec<String> = redis::cmd("KEYS").arg(pattern).query(&mut redis)?;
            for key in inboxes {
                count += redis::cmd("XLEN").arg(key).query::<u64>(&mut redis)?;
            }
            Ok(count == 0)
        })
    }

    /// How many acknowledgements each publisher has.
    fn acknowledged(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for event in self.history.events().iter() {
            if matches!(event.what, What::Acknowledged(_)) {
                *counts.entry(event.client.clone()).or_default() += 1;
            }
        }
        counts
    }

    /// The publishers stop, who was away returns, and all is judged.
    pub(crate) fn end(self) -> Result<(), Failed> {
        self.rest()?;
        let door = self.stage.nodes.iter().position(|node| node.process.is_some());
        self.actor(AWAY).come_back(door.unwrap_or(0));
        self.wait("all are there", || Ok(self.cast.values().all(Actor::is_settled)))?;
        let mut broken =
            self.settled(|scene| Ok(check::lost(&scene.history.events(), &scene.rules)))?;
        broken.clear();
        broken.extend(check::broken(&self.history.events(), &self.rules));
        broken.extend(self.settled(Self::retained_differ)?);
        broken.extend(self.settled(Self::stats_wrong)?);
        if broken.is_empty() { Ok(()) } else { Err(self.report(&broken).into()) }
    }

    /// What is still broken when there was time for everything to arrive.
    fn settled(
        &self,
        look: impl Fn(&Self) -> Result<Vec<Broken>, Failed>,
    ) -> Result<Vec<Broken>, Failed> {
        let deadline = Instant::now() + ARRIVAL_MAX;
        loop {
            let broken = look(self)?;
            if broken.is_empty() || Instant::now() > deadline {
                return Ok(broken);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn retained_differ(&self) -> Result<Vec<Broken>, Failed> {
        let mut found = Vec::new();
        let nodes = NODES.iter().zip(&self.stage.nodes);
        for (name, node) in nodes.filter(|(_, node)| node.process.is_some()) {
            let client = Client::connect(node.running()?, &format!("look-{name}"))?;
            client.subscribe("kept/#")?;
            // What is retained comes before the end of a second SUBSCRIBE.
            client.subscribe("nothing")?;
            client.leave()?;
            let kept = client.taken().into_iter().map(|(topic, text, _)| (topic, text));
            found.push(((*name).to_owned(), kept.collect::<Retained>()));
        }
        Ok(check::retained_differ(&found))
    }

    fn stats_wrong(&self) -> Result<Vec<Broken>, Failed> {
        let mut redis = self.stage.redis.connection()?;
        let count = |is_meant: fn(Role) -> u64| -> u64 {
            self.roles.iter().map(|&(_, role, _)| is_meant(role)).sum()
        };
        let subscriptions = count(|role| match role {
            Role::Subscriber => 2,
            Role::Member => 1,
            _ => 0,
        });
        let has_retained = count(|role| u64::from(role == Role::Retainer)) > 0;
        let truth = [
            ("CONNECTION", self.roles.len() as u64),
            ("SUBSCRIPTIONS", subscriptions),
            ("RETAINED", if has_retained { 5 } else { 0 }),
        ];
        let mut counters = Vec::new();
        for (name, truth) in truth {
            let key = self.stage.redis.key(&format!("STATS:GROUP1:TOTAL_{name}"));
            let is: Option<u64> = redis::cmd("GET").arg(key).query(&mut redis)?;
            counters.push((name, is.unwrap_or(0), truth));
        }
        Ok(check::stats_wrong(&counters))
    }

    fn wait(
        &self,
        what: &str,
        condition: impl FnMut() -> Result<bool, Failed>,
    ) -> Result<(), Failed> {
        wait(what, condition).map_err(|failed| {
            let why = failed.message().unwrap_or(what).to_owned();
            format!("{why}\n{}", self.logs()).into()
        })
    }

    fn report(&self, broken: &[Broken]) -> String {
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for broken in broken {
            *kinds.entry(broken.kind()).or_default() += 1;
        }
        let lines: Vec<String> = broken.iter().take(SHOWN_MAX).map(ToString::to_string).collect();
        let history = self.keep_history();
        format!("promises broken: {kinds:?}\n{}\n{history}\n{}", lines.join("\n"), self.logs())
    }

    /// Writes the history to a file; says where it is.
    fn keep_history(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("octopus-history-{}-{number}.txt", own_name());
        let path = std::env::temp_dir().join(name);
        let events = self.history.events();
        let line = |event: &Event| {
            format!("{:9.3} {} {}\n", event.at.as_secs_f32(), event.client, event.what)
        };
        let text: String = events.iter().map(line).collect();
        match std::fs::write(&path, text) {
            Ok(()) => format!("the whole history: {}", path.display()),
            Err(error) => format!("the history was not written: {error}"),
        }
    }

    fn logs(&self) -> String {
        let mut text = String::new();
        for (name, node) in NODES.iter().zip(&self.stage.nodes) {
            let log = node.process.as_ref().map(Process::log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(SHOWN_MAX)..];
            text.push_str(&format!("--- {name}\n{}\n", last.join("\n")));
        }
        text
    }
}
