//! A group in a network of its own: each node and Redis in a namespace, with wires that are
//! pulled and put back.
//!
//! A case runs this program again in new namespaces for network, mounts and processes. What is
//! made in them (interfaces, other namespaces, processes) ends with them, whatever happens: no
//! case can leave anything on the machine. It needs root, or a kernel that lets users have
//! namespaces; without, a case fails and says so.
//!
//! ```text
//!            front 10.77.1.0/24 (clients, in the case's own namespace)
//!     .1 ----+--------+--------+
//!          A .11    B .12    C .13
//!            +--------+--------+---- Redis .10
//!            back 10.77.2.0/24
//! ```

use std::{net::Ipv4Addr, process::Command};

use libtest_mimic::Failed;

use super::{
    group::Redis,
    history::scene::{NODES, Place, Scene, Stage},
};
use crate::harness::broker::{INSIDE, own_name};

type Case = fn() -> Result<(), Failed>;

/// Acknowledgements of each publisher between two mishaps.
const WHILE: usize = 60;
const REDIS: &str = "redis";
const FRONT: &str = "front";
const BACK: &str = "back";

pub(super) fn all() -> Vec<(&'static str, Case)> {
    vec![
        ("network_that_loses_a_nodes_clients_breaks_no_promise", || {
            inside("network_that_loses_a_nodes_clients_breaks_no_promise", clients_cut_off)
        }),
        ("network_that_loses_a_node_beyond_its_lease_breaks_no_promise", || {
            inside("network_that_loses_a_node_beyond_its_lease_breaks_no_promise", node_cut_off)
        }),
    ]
}

/// Runs `case` in namespaces of its own.
fn inside(name: &str, case: Case) -> Result<(), Failed> {
    if std::env::var_os(INSIDE).is_some() {
        return case();
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !is_root()? {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.arg(std::env::current_exe()?).arg(format!("cluster::{name}"));
    unshare.args(["--exact", "--test-threads=1"]).env(INSIDE, format!("{}-{name}", own_name()));
    let output = unshare.output().map_err(|error| format!("unshare: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() && said.contains("1 passed") {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let hint = match said.is_empty() {
        true => "this case needs namespaces: run it as root, or let users have them\n",
        false => "",
    };
    Err(format!("{hint}{errors}{said}").into())
}

fn is_root() -> Result<bool, Failed> {
    let output = Command::new("id").arg("-u").output()?;
    Ok(output.stdout.trim_ascii() == b"0")
}

/// The bridges and namespaces of the picture above. Scope: one case, inside.
struct Network;

impl Network {
    fn new() -> Result<Self, Failed> {
        // `ip netns` keeps its names there, and they shall be ours alone.
        run("mount -t tmpfs tmpfs /run")?;
        run("ip link set lo up")?;
        for bridge in [FRONT, BACK] {
            run(&format!("ip link add {bridge} type bridge"))?;
            run(&format!("ip link set {bridge} up"))?;
        }
        run(&format!("ip address add 10.77.1.1/24 dev {FRONT}"))?;
        run(&format!("ip address add 10.77.2.1/24 dev {BACK}"))?;
        for (name, number) in NODES.iter().zip(11..) {
            namespace(name)?;
            plug(name, FRONT, Ipv4Addr::new(10, 77, 1, number))?;
            plug(name, BACK, Ipv4Addr::new(10, 77, 2, number))?;
        }
        namespace(REDIS)?;
        plug(REDIS, BACK, redis_address())?;
        Ok(Self)
    }

    /// Pulls the wire between `name` and `bridge`: packets vanish, nobody is told.
    fn cut(&self, name: &str, bridge: &str) -> Result<(), Failed> {
        run(&format!("ip link set {} down", wire(name, bridge)))
    }

    fn heal(&self, name: &str, bridge: &str) -> Result<(), Failed> {
        run(&format!("ip link set {} up", wire(name, bridge)))
    }

    fn scene(&self) -> Result<Scene, Failed> {
        let redis = Redis::start_at(&prefix(REDIS), redis_address(), false)?;
        let places: Vec<Place> = (11..)
            .zip(NODES)
            .map(|(number, name)| Place {
                prefix: prefix(name),
                address: Ipv4Addr::new(10, 77, 1, number),
                environment: Vec::new(),
            })
            .collect();
        let settings =
            [format!("--redis.host={}", redis_address()), format!("--redis.port={}", redis.port())];
        Scene::begin(Stage::at(redis, &places, &settings)?)
    }
}

fn redis_address() -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 2, 10)
}

fn prefix(name: &str) -> Vec<String> {
    ["ip", "netns", "exec", name].map(str::to_owned).into()
}

/// The bridge's end of the wire.
fn wire(name: &str, bridge: &str) -> String {
    format!("{bridge}-{name}")
}

fn namespace(name: &str) -> Result<(), Failed> {
    run(&format!("ip netns add {name}"))?;
    run(&format!("ip -n {name} link set lo up"))
}

/// A wire from the namespace `name` to `bridge`.
fn plug(name: &str, bridge: &str, address: Ipv4Addr) -> Result<(), Failed> {
    let wire = wire(name, bridge);
    run(&format!("ip link add {wire} type veth peer name {bridge} netns {name}"))?;
    run(&format!("ip link set {wire} master {bridge} up"))?;
    run(&format!("ip -n {name} address add {address}/24 dev {bridge}"))?;
    run(&format!("ip -n {name} link set {bridge} up"))
}

fn run(line: &str) -> Result<(), Failed> {
    let mut words = line.split(' ');
    let program = words.next().unwrap_or_default();
    let output = Command::new(program).args(words).output();
    let output = output.map_err(|error| format!("{line}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// The node is there for its clients and cannot reach Redis; others have its sessions when it
/// can.
fn node_cut_off() -> Result<(), Failed> {
    let network = Network::new()?;
    let mut scene = network.scene()?;
    scene.go_on(WHILE)?;
    network.cut("B", BACK)?;
    scene.mishap();
    scene.wait_until_gone("B")?;
    scene.go_on(WHILE)?;
    network.heal("B", BACK)?;
    scene.wait_until_there("B")?;
    scene.go_on(WHILE)?;
    scene.end()
}

fn clients_cut_off() -> Result<(), Failed> {
    let network = Network::new()?;
    let scene = network.scene()?;
    scene.go_on(WHILE)?;
    network.cut("B", FRONT)?;
    scene.go_on(WHILE)?;
    network.heal("B", FRONT)?;
    scene.go_on(WHILE)?;
    scene.end()
}
