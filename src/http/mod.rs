//! Metrics, health, the admin API and the dashboard, over HTTP/1.1 on the control plane's
//! thread.
//!
//! Nothing here waits for a shard longer than `ANSWER_TIMEOUT`, and nothing a client of this
//! server does reaches a shard but the bounded questions of `octopus_engine::Query` and what
//! the API is for. Connections, headers, bodies and times are bounded.

mod access;
mod api;
mod dashboard;
mod health;
mod request;
mod respond;
mod server;
mod view;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use octopus_engine::{NodeIndex, Stats};
use tokio::sync::watch;

pub use access::Access;
pub use api::Tracing;
pub use health::Readiness;
pub use server::serve;

use crate::hub::Hub;

/// How long an answer of the shards may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Writes `/metrics` for these shards' counters; `accept` is the scrape's header. Returns the
/// content type and the text.
pub type MetricsPage = Box<dyn Fn(&[Stats], &str) -> (&'static str, String) + Send + Sync>;
/// Reads or sets the log's filter.
pub type LogLevel = Box<dyn Fn(Option<&str>) -> Result<String, String> + Send + Sync>;
/// Reads the configuration again; what was applied and what needs a restart, or what is wrong.
pub type Reload = Box<dyn Fn() -> Result<Reloaded, String> + Send + Sync>;
/// The other nodes of the group, as the bridge knows them.
pub type Nodes = Box<dyn Fn() -> Vec<NodeInfo> + Send + Sync>;
/// What a node of the group is called that the shards know by its index.
pub type NodeNames = Box<dyn Fn(NodeIndex) -> Option<String> + Send + Sync>;

type AddBan = Box<dyn Fn(&str, Option<Duration>) -> Result<(), BanError> + Send + Sync>;
type RemoveBan = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// The ban list: whom, as `address:NETWORK`, `user:NAME` or `client:ID`.
pub struct Bans {
    pub list: Box<dyn Fn() -> Vec<Ban> + Send + Sync>,
    /// Keeps somebody out, for a while or until taken off, and ends the connections there are.
    pub add: AddBan,
    /// Whether it was on the list.
    pub remove: RemoveBan,
}

/// One entry of the ban list.
#[derive(Clone, Debug)]
pub struct Ban {
    pub target: String,
    /// `None`: until taken off.
    pub left: Option<Duration>,
}

/// Why a ban is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BanError {
    /// The text names nobody.
    NoTarget,
    ListFull,
}

/// What a reload did.
#[derive(Clone, Debug, Default)]
pub struct Reloaded {
    pub applied: Vec<String>,
    pub needs_restart: Vec<String>,
}

/// A node of the group.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    pub id: String,
    /// Its lease holds.
    pub is_live: bool,
    /// What it told the group of itself, as an object of the API; null if nothing lately.
    pub figures: serde_json::Value,
}

/// One listener as the API shows it.
#[derive(Clone, Debug)]
pub struct ListenerInfo {
    pub name: String,
    pub kind: String,
    pub address: String,
}

/// Everything the pages need. Scope: node.
pub struct App {
    pub hub: Hub,
    pub node: String,
    pub group: String,
    pub listeners: Vec<ListenerInfo>,
    pub access: Access,
    pub readiness: Readiness,
    pub metrics: MetricsPage,
    pub log_level: LogLevel,
    pub reload: Reload,
    /// `None`: this node is alone.
    pub nodes: Option<Nodes>,
    /// `None`: this node is alone.
    pub node_names: Option<NodeNames>,
    pub trace: Tracing,
    pub bans: Bans,
    pub started: std::time::Instant,
}

impl App {
    /// The counters of every shard; `None` if one does not answer in time.
    async fn stats(&self) -> Option<Vec<Stats>> {
        in_time(self.hub.stats()).await
    }
}

async fn in_time<T>(answer: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::time::timeout(ANSWER_TIMEOUT, answer).await.ok().flatten()
}

/// Who asks, and whether the process is about to end.
#[derive(Clone)]
struct Caller {
    address: SocketAddr,
    app: Arc<App>,
    stopping: watch::Receiver<bool>,
}
