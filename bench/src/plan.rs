//! What one run does, worked out from the command line: clients, topics, pace and bounds.

mod held;

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use octopus_mqtt::{QoS, Version};

use crate::{
    cli::{
        Command, Common, IdleOptions, PubOptions, SharedOptions, SubOptions, SubscriptionsOptions,
        Traffic, Wildcard,
    },
    context::Phase,
    stamp::Stamp,
    tls,
};

/// One run. Scope: the process; each thread takes every `threads`-th client of each kind.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The scenario's name in the report.
    pub name: &'static str,
    /// Tells this run's messages from those of others.
    pub run: u32,
    /// The nodes of one broker; see [`Self::node_of`].
    pub nodes: Vec<SocketAddr>,
    /// `None`: plain TCP.
    pub tls: Option<tls::Config>,
    pub version: Version,
    pub username: Option<String>,
    pub password: Option<String>,
    /// Client Identifier; `%i` the number of the client, `%r` that of the run.
    pub client_id: String,
    /// Client Identifiers of the first clients, publishers first; `client_id` is for the others.
    pub client_ids: Arc<[String]>,
    pub clean_start: bool,
    pub keep_alive_s: u16,

    pub publishers: usize,
    pub subscribers: usize,
    /// Clients that only connect.
    pub idle: usize,
    /// Topic Name of a publisher; `%i` its number, `%n` that of the message. `%s` and `%f` are
    /// the numbers of a subscriber and of one of its filters: another one with each message.
    pub topic: String,
    /// Topic Filter of a subscriber; `%i` its number, `%f` that of the filter.
    pub filter: String,
    /// Filters of each subscriber.
    pub filters_each: usize,
    pub qos: QoS,
    pub payload: Vec<u8>,
    pub retain: bool,
    pub spread: Spread,

    /// Messages per second of all publishers; `None` is as fast as they go.
    pub rate: Option<f64>,
    /// Messages a publisher may have under way; 0 is no limit of ours (QoS 0 only).
    pub window: usize,
    /// Messages of all publishers after which the run ends.
    pub limit: Option<u64>,
    /// The messages to come are in the broker already.
    pub replay: Option<Replay>,

    pub threads: usize,
    pub cores: Vec<usize>,
    pub connect_interval: Duration,
    pub connect_window: usize,
    pub warmup: Duration,
    pub duration: Duration,
    pub drain: Duration,
    pub quiet: bool,
}

/// Messages that the broker has when the run begins: it ends when they have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replay {
    pub count: u64,
    pub caused_by: Cause,
}

/// What a subscriber does when measuring begins, so that it gets what waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It is connected, and subscribes.
    Subscribe,
    /// It connects, to a session that has its subscriptions.
    Connect,
}

/// Who gets a published message among the subscribers of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// Nobody here publishes and subscribes alike.
    Apart,
    /// The subscriber with the publisher's number.
    Pairs,
    /// Every subscriber.
    All,
    /// One subscriber of all, whichever the broker picks.
    Group,
}

impl Plan {
    /// The runs of a sub-command, in order; none for what makes its own.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn of(command: &Command) -> io::Result<Vec<Self>> {
        Ok(vec![match command {
            Command::Conn(o) => Self::connections("conn", &o.common, o.count_or(1000))?,
            Command::Storm(o) => {
                let plan = Self::connections("storm", &o.common, o.count_or(10_000))?;
                Self { duration: Duration::ZERO, ..plan }
            }
            Command::Sub(o) => Self::sub(o)?,
            Command::Pub(o) => Self::publish(o)?,
            Command::Pairs(o) => {
                Self::pairs("pairs", &o.clients.common, &o.traffic, o.clients.count_or(50))?
            }
            Command::Latency(o) => {
                let count = o.clients.count_or(10);
                Self::slow_pairs("latency", &o.clients.common, &o.traffic, count)?
            }
            Command::Fanin(o) => {
                Self::fan_in(&o.clients.common, &o.traffic, o.clients.count_or(100))?
            }
            Command::Fanout(o) => {
                Self::fan_out(&o.clients.common, &o.traffic, o.clients.count_or(500))?
            }
            Command::Shared(o) => Self::shared(o)?,
            Command::Idle(o) => Self::idle(o)?,
            Command::Retained(o) => return Self::retained(o),
            Command::Offline(o) => return Self::offline(o),
            Command::Subscriptions(o) => Self::subscriptions(o)?,
            Command::Cluster(_) | Command::Compare(_) => return Ok(Vec::new()),
        }])
    }

    /// A run that connects nobody; the others add to it.
    fn new(name: &'static str, common: &Common) -> io::Result<Self> {
        let (broker, run) = (&common.broker, &common.run);
        let ports = if broker.group.is_empty() { &vec![broker.port] } else { &broker.group };
        let nodes = ports.iter().map(|&port| address_of(&broker.host, port));
        let nodes = nodes.collect::<io::Result<_>>()?;
        Ok(Self {
            name,
            run: fresh_run(),
            nodes,
            tls: broker.ca_file.as_deref().map(tls::config).transpose()?,
            version: broker.mqtt_version,
            username: broker.username.clone(),
            password: broker.password.clone(),
            client_id: broker.client_id.clone(),
            client_ids: Arc::default(),
            clean_start: !broker.no_clean,
            keep_alive_s: broker.keep_alive,
            publishers: 0,
            subscribers: 0,
            idle: 0,
            topic: String::new(),
            filter: String::new(),
            filters_each: 1,
            qos: QoS::AtMostOnce,
            payload: Vec::new(),
            retain: false,
            spread: Spread::Apart,
            rate: None,
            window: 0,
            limit: None,
            replay: None,
            threads: run.threads.max(1),
            cores: run.cpu.clone(),
            connect_interval: Duration::from_millis(run.connect_interval_ms),
            connect_window: run.connect_window.max(1),
            warmup: run.warmup,
            duration: run.duration,
            drain: run.drain,
            quiet: run.quiet,
        })
    }

    /// `count` clients that only connect.
    fn connections(name: &'static str, common: &Common, count: usize) -> io::Result<Self> {
        Ok(Self { idle: count, warmup: Duration::ZERO, ..Self::new(name, common)? })
    }

    fn sub(options: &SubOptions) -> io::Result<Self> {
        Ok(Self {
            subscribers: options.clients.count_or(1000),
            filter: options.topic.clone(),
            qos: options.qos,
            warmup: Duration::ZERO,
            ..Self::new("sub", &options.clients.common)?
        })
    }

    fn publish(options: &PubOptions) -> io::Result<Self> {
        let clients = &options.load.clients;
        let plan = Self {
            publishers: clients.count_or(1000),
            topic: options.topic.clone(),
            ..Self::new("pub", &clients.common)?
        };
        Ok(plan.with(&options.load.traffic))
    }

    fn pairs(
        name: &'static str,
        common: &Common,
        traffic: &Traffic,
        count: usize,
    ) -> io::Result<Self> {
        let plan = Self {
            publishers: count,
            subscribers: count,
            topic: "bench/pairs/%i".into(),
            filter: "bench/pairs/%i".into(),
            spread: Spread::Pairs,
            ..Self::new(name, common)?
        };
        Ok(plan.with(traffic))
    }

    fn fan_in(common: &Common, traffic: &Traffic, count: usize) -> io::Result<Self> {
        let plan = Self {
            publishers: count,
            subscribers: 1,
            topic: "bench/fanin/%i".into(),
            filter: "bench/fanin/+".into(),
            spread: Spread::All,
            ..Self::new("fanin", common)?
        };
        Ok(plan.with(traffic))
    }

    fn fan_out(common: &Common, traffic: &Traffic, count: usize) -> io::Result<Self> {
        let plan = Self {
            publishers: 1,
            subscribers: count,
            topic: "bench/fanout".into(),
            filter: "bench/fanout".into(),
            spread: Spread::All,
            ..Self::new("fanout", common)?
        };
        Ok(plan.with(traffic))
    }

    fn shared(options: &SharedOptions) -> io::Result<Self> {
        let plan = Self {
            publishers: options.publishers,
            subscribers: options.subscribers,
            topic: "bench/shared/%i".into(),
            filter: "$share/bench/bench/shared/+".into(),
            spread: Spread::Group,
            ..Self::new("shared", &options.common)?
        };
        Ok(plan.with(&options.traffic))
    }

    /// Pairs at `default_rate` messages per second unless `traffic` says otherwise.
    fn slow_pairs(
        name: &'static str,
        common: &Common,
        traffic: &Traffic,
        count: usize,
    ) -> io::Result<Self> {
        let mut plan = Self::pairs(name, common, traffic, count)?;
        plan.rate = plan.rate.or(Some(1000.0));
        Ok(plan)
    }

    fn idle(options: &IdleOptions) -> io::Result<Self> {
        let (clients, traffic) = (&options.load.clients, &options.load.traffic);
        let plan = Self::slow_pairs("idle", &clients.common, traffic, options.active)?;
        Ok(Self { idle: clients.count_or(10_000), ..plan })
    }

    fn subscriptions(options: &SubscriptionsOptions) -> io::Result<Self> {
        let (clients, traffic) = (&options.load.clients, &options.load.traffic);
        let (topic, filter) = match options.wildcard {
            Wildcard::Exact => ("bench/many/%s/%f", "bench/many/%i/%f"),
            Wildcard::Plus => ("bench/many/%s/any/%f", "bench/many/%i/+/%f"),
            Wildcard::Hash => ("bench/many/%s/%f/any", "bench/many/%i/%f/#"),
        };
        let plan = Self {
            publishers: options.publishers,
            subscribers: clients.count_or(1000),
            topic: topic.into(),
            filter: filter.into(),
            filters_each: options.each.max(1),
            spread: Spread::Group,
            ..Self::new("subscriptions", &clients.common)?
        };
        Ok(plan.with(traffic))
    }

    /// Where a client connects: publishers and idle clients go round, a subscriber is one node
    /// further than the publisher of its number, so that in a group its messages cross.
    pub(crate) fn node_of(&self, client: usize) -> SocketAddr {
        let beyond = client.saturating_sub(self.publishers);
        let is_subscriber = client >= self.publishers && beyond < self.subscribers;
        let at = if is_subscriber { beyond + 1 } else { client };
        self.nodes[at % self.nodes.len()]
    }

    /// Subscribers of this process that each published message reaches.
    pub(crate) fn deliveries_per_message(&self) -> usize {
        match self.spread {
            Spread::Apart => 0,
            Spread::Pairs | Spread::Group => 1,
            Spread::All => self.subscribers,
        }
    }

    /// Whether payloads carry a stamp.
    pub(crate) fn is_checked(&self) -> bool {
        self.payload.len() >= Stamp::LEN
    }

    /// When clients connect.
    pub(crate) fn connect_phase(&self) -> Phase {
        match self.replay {
            Some(Replay { caused_by: Cause::Connect, .. }) => Phase::Measure,
            _ => Phase::Connect,
        }
    }

    pub(crate) fn clients(&self) -> usize {
        self.publishers + self.subscribers + self.idle
    }

    fn with(mut self, traffic: &Traffic) -> Self {
        self.qos = traffic.qos;
        self.payload = payload(traffic.size, traffic.message.as_deref());
        self.retain = traffic.retain;
        self.rate = traffic.total_rate(self.publishers);
        self.limit = traffic.limit;
        self.window = traffic.inflight.unwrap_or_else(|| self.default_window());
        if self.qos > QoS::AtMostOnce {
            self.window = self.window.clamp(1, usize::from(u16::MAX));
        }
        self
    }

    /// Deep enough that each side finds full batches, shallow enough that no broker's queue for
    /// one subscriber (1,000 messages is a usual limit) or memory comes into play.
    fn default_window(&self) -> usize {
        let by_qos = match self.qos {
            QoS::AtMostOnce => 256,
            QoS::AtLeastOnce => 100,
            // mosquitto closes a 3.1.1 client that has more than 20 of these under way.
            QoS::ExactlyOnce => 20,
        };
        let by_size = (256 << 10) / self.payload.len().max(1);
        let by_fan_out = 16_384 / self.deliveries_per_message().max(1);
        let publishers_each = match self.spread {
            Spread::All => self.publishers,
            Spread::Group => self.publishers.div_ceil(self.subscribers.max(1)),
            Spread::Apart | Spread::Pairs => 1,
        };
        let by_fan_in = 1000 / publishers_each.max(1);
        by_qos.min(by_size).min(by_fan_out).min(by_fan_in).max(2)
    }
}

fn address_of(host: &str, port: u16) -> io::Result<SocketAddr> {
    let address = (host, port).to_socket_addrs()?.next();
    address.ok_or_else(|| io::Error::other("the host has no address"))
}

/// `size` bytes beginning with room for a stamp, then `text`, then x. A text longer than `size`
/// alone is sent as it is.
fn payload(size: usize, text: Option<&str>) -> Vec<u8> {
    let text = text.unwrap_or_default().as_bytes();
    let mut payload = vec![b'x'; size];
    match payload.get_mut(Stamp::LEN..) {
        Some(rest) if rest.len() >= text.len() => rest[..text.len()].copy_from_slice(text),
        _ if text.is_empty() => {}
        _ => payload = text.to_vec(),
    }
    payload
}

/// A number no other run of this machine is likely to have.
fn fresh_run() -> u32 {
    (crate::system::now_ns() >> 10) as u32 ^ std::process::id().rotate_left(16)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn plans(line: &str) -> Vec<Plan> {
        let cli = Cli::try_parse_from(line.split(' ')).expect("a lawful line");
        Plan::of(&cli.command).expect("an address")
    }

    #[test]
    fn the_window_follows_from_qos_size_and_fan() {
        for (line, window) in [
            ("b pairs", 256),
            ("b pairs -q 1", 100),
            ("b pairs -s 65536", 4),
            ("b pairs -s 1048576", 2),
            ("b pairs -q 2", 20),
            ("b pairs -q 2 --inflight 0", 1),
            ("b pairs --inflight 0", 0),
            ("b fanin -q 1", 10),
            ("b fanout -c 5000", 3),
        ] {
            assert_eq!(plans(line)[0].window, window, "{line}");
        }
    }

    #[test]
    fn in_a_group_each_message_crosses() {
        let plan = &plans("b pairs -c 3 --group 1,2,3")[0];
        let ports: Vec<u16> = (0..6).map(|client| plan.node_of(client).port()).collect();
        assert_eq!(ports, [1, 2, 3, 2, 3, 1]);
        let plan = &plans("b conn -c 2 --port 9")[0];
        assert_eq!((plan.node_of(0).port(), plan.node_of(1).port()), (9, 9));
    }

    #[test]
    fn each_scenario_has_its_own_number_of_clients() {
        for (line, clients) in [
            ("b conn", (0, 0, 1000)),
            ("b storm", (0, 0, 10_000)),
            ("b sub -c 3", (0, 3, 0)),
            ("b pub", (1000, 0, 0)),
            ("b pairs", (50, 50, 0)),
            ("b latency", (10, 10, 0)),
            ("b fanin", (100, 1, 0)),
            ("b fanout", (1, 500, 0)),
            ("b shared --publishers 7", (7, 50, 0)),
            ("b idle --active 2", (2, 2, 10_000)),
            ("b subscriptions", (10, 1000, 0)),
        ] {
            let plan = &plans(line)[0];
            assert_eq!((plan.publishers, plan.subscribers, plan.idle), clients, "{line}");
        }
    }

    #[test]
    fn a_text_stands_behind_the_stamp_or_alone() {
        assert_eq!(payload(30, Some("hi")), *b"xxxxxxxxxxxxxxxxxxxxxxxxhixxxx");
        assert_eq!(payload(5, Some("hello world")), *b"hello world");
        assert_eq!(payload(3, None), *b"xxx");
        assert_eq!(payload(0, None), *b"");
    }
}
