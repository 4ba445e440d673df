//! Puts the HTTP server's parts together from the configuration and the running node.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{SocketAddr, ToSocketAddrs as _},
};

use octopus_runtime::Address;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    auth::{Auth, Target},
    bridge::{
        counters::Counters,
        link::Link,
        members::{Members, id_of},
    },
    certificates::Reloading,
    config::{Config, Http, Loaded},
    http::{Access, App, Ban, BanError, Bans, ListenerInfo, NodeInfo, NodeNames, Nodes, Readiness},
    hub::Hub,
    log::LogFilter,
    reload::Reload,
    stats::{Figures, GroupFigures, Metrics, exposition::Format, metrics::Source},
};

/// Opens the HTTP listener; `None` if `http.enable` is false, or if nobody chose the port and
/// it is taken: a second broker on one machine serves its clients all the same.
///
/// # Errors
/// The system's, with the address.
pub async fn bind(loaded: &Loaded) -> io::Result<Option<TcpListener>> {
    let http = &loaded.config.http;
    if !http.enable {
        return Ok(None);
    }
    let effective = loaded.effective();
    let is_chosen = effective.iter().any(|line| line.key == "http.port" && line.place.is_some());
    match listen(http).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !is_chosen => {
            tracing::warn!("{error}; no metrics, health and admin API (set http.port)");
            Ok(None)
        }
        listener => listener.map(Some),
    }
}

async fn listen(http: &Http) -> io::Result<TcpListener> {
    let (host, port) = (http.host.as_str(), http.port);
    let explain = |error: io::Error| {
        let cause = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "in use: another process listens there (another octopus?); give this one another \
                 port by http.port"
                    .to_owned()
            }
            _ => error.to_string(),
        };
        io::Error::new(error.kind(), format!("http.host {host}, http.port {port}: {cause}"))
    };
    let addresses = (host, port).to_socket_addrs().map_err(explain)?;
    let mut addresses: Vec<SocketAddr> = addresses.collect();
    addresses.sort_by_key(|address| address.is_ipv6());
    let first = addresses.first().ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable));
    TcpListener::bind(*first.map_err(explain)?).await.map_err(explain)
}

/// The admin API's token: `http.token`, else the first line of `http.token_file`, else empty.
///
/// # Errors
/// If the file cannot be read, or its first line is empty.
pub fn token(http: &Http) -> io::Result<String> {
    if !http.token.is_empty() || http.token_file.is_empty() {
        return Ok(http.token.reveal().to_owned());
    }
    let path = &http.token_file;
    let text = fs::read_to_string(path).map_err(|error| {
        io::Error::new(error.kind(), format!("http.token_file {path}: {error}"))
    })?;
    let token = text.lines().next().unwrap_or_default().trim();
    if token.is_empty() {
        let what = format!("http.token_file {path}: its first line is empty");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(token.to_owned())
}

/// What the pages show of a node's group.
pub struct Group {
    pub link: Link,
    pub members: Members,
    pub counters: Counters,
    pub figures: GroupFigures,
}

impl Group {
    /// The link to Redis and what the bridge counted, for `/metrics`.
    fn metrics(&self) -> Source {
        let (link, counters) = (self.link.clone(), self.counters.clone());
        Box::new(move |out| {
            out.gauge("octopus_redis_up", "Whether the link to Redis is up.");
            out.sample(&[], f64::from(u8::from(link.is_up())));
            let help = "How long Redis took to answer when it was last asked; every half second.";
            out.gauge("octopus_redis_round_trip_seconds", help);
            out.sample(&[], link.round_trip().as_secs_f64());
            out.counter("octopus_redis_operations", "Commands sent to Redis.");
            out.sample(&[], link.operation_count() as f64);
            let (count, bytes) = counters.waiting();
            let help = "Messages that wait to be written for other nodes.";
            out.gauge("octopus_bridge_waiting_messages", help);
            out.sample(&[], count as f64);
            out.gauge("octopus_bridge_waiting_bytes", "Bytes of those.");
            out.sample(&[], bytes as f64);
            for (name, help, count) in counters.all() {
                out.counter(name, help);
                out.sample(&[], count as f64);
            }
        })
    }

    fn node_names(&self) -> NodeNames {
        let counters = self.counters.clone();
        Box::new(move |index| counters.node_name(index))
    }

    fn nodes(&self) -> Nodes {
        let (view, figures) = (self.members.view(), self.figures.clone());
        Box::new(move || {
            let nodes = view.borrow().nodes.clone();
            let mut by_id = BTreeMap::<String, bool>::new();
            for (name, node) in nodes {
                // What an earlier life left says nothing about the node.
                *by_id.entry(id_of(&name).to_owned()).or_default() |= node.is_live;
            }
            let nodes = by_id.into_iter().map(|(id, is_live)| NodeInfo {
                figures: figures.of(&id).filter(|_| is_live).map_or(Value::Null, shown),
                id,
                is_live,
            });
            nodes.collect()
        })
    }
}

/// A node's figures as the API has them.
fn shown(figures: Figures) -> Value {
    json!({
        "version": figures.version,
        "uptime_s": figures.uptime_s,
        "connections": figures.connections,
        "sessions": figures.sessions,
        "subscriptions": figures.subscriptions,
        "received_per_s": figures.received_per_s,
        "sent_per_s": figures.sent_per_s,
        "memory_bytes": figures.memory_bytes,
    })
}

/// What authentication counted, for `/metrics`.
fn auth_metrics(auth: Auth) -> Source {
    Box::new(move |out| {
        let stats = auth.stats();
        out.counter("octopus_auth_outcomes", "Answers about clients, by backend and result.");
        // The two that matter are there before they happen, so that their rates are.
        let mut outcomes = BTreeMap::from([(("chain", "granted"), 0), (("chain", "refused"), 0)]);
        outcomes.extend(stats.outcomes.iter().map(|(labels, count)| (*labels, *count)));
        for ((backend, result), count) in outcomes {
            out.sample(&[("backend", backend), ("result", result)], count as f64);
        }
        for (name, help, count) in stats.counters() {
            out.counter(name, help);
            out.sample(&[], count as f64);
        }
        out.gauge("octopus_auth_files_broken", "Files not usable; older ones are in force.");
        out.sample(&[], stats.files_broken as f64);
        out.gauge("octopus_auth_bans", "Entries of the ban list.");
        out.sample(&[], stats.bans as f64);
    })
}

/// The ban list, and what happens to those who are here already.
fn bans(auth: Auth) -> Bans {
    let (list, remove) = (auth.clone(), auth.clone());
    Bans {
        list: Box::new(move || {
            let bans = list.bans().into_iter();
            bans.map(|(target, left)| Ban { target: target.to_string(), left }).collect()
        }),
        add: Box::new(move |text, time| {
            let target: Target = text.parse().map_err(|()| BanError::NoTarget)?;
            if !auth.ban(target, time) {
                return Err(BanError::ListFull);
            }
            Ok(())
        }),
        remove: Box::new(move |text| text.parse().is_ok_and(|target| remove.unban(&target))),
    }
}

/// Of the running node, what the pages show and set.
pub struct Parts {
    pub auth: Auth,
    pub certificates: Reloading,
    pub reload: Reload,
}

/// What the pages need. `addresses`: those listened on, by listener; `group`: of a node that is
/// not alone.
///
/// # Errors
/// If the token cannot be read.
pub fn app(
    config: &Config,
    hub: Hub,
    addresses: &[Address],
    log_filter: LogFilter,
    parts: Parts,
    group: Option<Group>,
) -> io::Result<App> {
    let access = Access::new(&token(&config.http)?);
    if !access.has_token() {
        tracing::info!("the admin API has no token (http.token): only this machine may use it");
    }
    let listeners: Vec<ListenerInfo> = config
        .all_listeners()
        .into_iter()
        .zip(addresses)
        .map(|(listener, address)| ListenerInfo {
            name: listener.name,
            kind: format!("{:?}", listener.kind).to_lowercase(),
            address: address.to_string(),
        })
        .collect();
    let Parts { auth, certificates, reload } = parts;
    let reloads = reload.clone();
    let metrics = Metrics {
        node: config.broker.id.clone(),
        listeners: listeners.iter().map(|listener| listener.name.clone()).collect(),
        sources: group
            .iter()
            .map(Group::metrics)
            .chain([
                auth_metrics(auth.clone()),
                Box::new(move |out: &mut _| certificates.write(out)),
                Box::new(move |out: &mut _| reloads.write(out)),
            ])
            .collect(),
    };
    let mut readiness = Readiness::default();
    if let Some(link) = group.as_ref().map(|group| group.link.clone()) {
        readiness.require("redis", move || link.is_up());
    }
    let bans = bans(auth);
    Ok(App {
        hub,
        node: config.broker.id.clone(),
        group: config.broker.group.clone(),
        listeners,
        access,
        readiness,
        metrics: Box::new(move |shards, accept| {
            let format = Format::accepted(accept);
            (format.content_type(), metrics.text(shards, format))
        }),
        log_level: Box::new(move |new| {
            new.map_or(Ok(()), |text| log_filter.set(text))?;
            Ok(log_filter.get())
        }),
        reload: Box::new(move || reload.if_all_is_well()),
        nodes: group.as_ref().map(Group::nodes),
        node_names: group.as_ref().map(Group::node_names),
        trace: Default::default(),
        bans,
        started: std::time::Instant::now(),
    })
}
