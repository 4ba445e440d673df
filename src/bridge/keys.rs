//! Names of what a group keeps in Redis; the one place they are written.
//!
//! The predecessor's names stand as they were; what it never had is below `<GROUP>:V2:`.
//!
//! In a Redis Cluster the group is written `{<GROUP>}`, so that all its keys are in one slot, and
//! with them its channels. Only the channels of fast frames are not: each is in a slot of its own.
//! How the group is written, [`Config::group_tag`] says, for here and for the store.

use crate::config::Config;

/// Key and channel names of one group.
#[derive(Clone, Debug)]
pub struct Keys {
    group: Box<str>,
    /// The group as names in Redis have it.
    tag: Box<str>,
    publish: &'static str,
}

impl Keys {
    pub fn new(config: &Config) -> Self {
        Self {
            group: config.broker.group.as_str().into(),
            tag: config.group_tag().into(),
            publish: config.redis.publish_command(),
        }
    }

    /// The command that publishes on the group's own channels.
    pub fn publish(&self) -> &'static str {
        self.publish
    }

    /// A key that never exists; see [`super::link`].
    pub fn guard(&self) -> String {
        self.own("NOTHING")
    }

    pub fn group(&self) -> &str {
        &self.group
    }

    /// String: the incarnation that holds this node's lease.
    pub fn node(&self, id: &str) -> String {
        format!("{}:NODE:{id}", self.tag)
    }

    /// Hash: name of a node (`<id>:<incarnation>`, each life its own) -> epoch; nodes that were
    /// not yet forgotten. What follows is named by these names.
    pub fn nodes(&self) -> String {
        self.own("NODES")
    }

    /// Integer: the last epoch given to a node.
    pub fn epoch(&self) -> String {
        self.own("EPOCH")
    }

    /// Stream: frames for a node that it has not taken in yet.
    pub fn inbox(&self, name: &str) -> String {
        self.own(&format!("INBOX:{name}"))
    }

    /// Hash: sender -> `<epoch> <last>` of the durable lane, as the inbox's owner has taken it.
    pub fn seen(&self, name: &str) -> String {
        self.own(&format!("SEEN:{name}"))
    }

    /// Hash: `last`, the last entry of a node's inbox with messages for shared groups; `at`, up
    /// to where others have them, as the node is dead; `left`, once it gave its lease back; `gone`,
    /// once it is forgotten.
    pub fn estate(&self, name: &str) -> String {
        self.own(&format!("ESTATE:{name}"))
    }

    /// Sorted set: messages of QoS 2 for shared groups that this node's sessions have, and when
    /// they got them; see `store::scripts`.
    pub fn got(&self, name: &str) -> String {
        self.own(&format!("GOT:{name}"))
    }

    /// String: this node said lately that it is there; see `store::scripts`.
    pub fn awake(&self, name: &str) -> String {
        self.own(&format!("AWAKE:{name}"))
    }

    /// Set: clients whose sessions were this node's and wait for what is in its inbox; see
    /// `store::scripts`.
    pub fn left(&self, name: &str) -> String {
        self.own(&format!("LEFT:{name}"))
    }

    /// Set: clients whose sessions this node handed over, and still passes messages on to; see
    /// `store::scripts`.
    pub fn handed(&self, name: &str) -> String {
        self.own(&format!("HANDED:{name}"))
    }

    /// Set: clients whose sessions are this node's; see `store::scripts`.
    pub fn owned(&self, name: &str) -> String {
        self.own(&format!("OWNED:{name}"))
    }

    /// Hash: a session; see `store::scripts`.
    pub fn session(&self, client: &str) -> String {
        format!("{}:SESSION:{client}", self.tag)
    }

    /// Hash: what a node wants, one field per entry; the empty field is `<epoch> <number>` of
    /// the last change.
    pub fn interest(&self, name: &str) -> String {
        self.own(&format!("INTEREST:{name}"))
    }

    /// Channel: fast frames for a node. In a Redis Cluster its slot is by the whole name, so that
    /// the nodes' channels spread over the masters.
    pub fn fast(&self, name: &str) -> String {
        format!("{}:V2:BRIDGE:{name}", self.group)
    }

    /// Channel: how far other nodes know what a node wants.
    pub fn known(&self, id: &str) -> String {
        self.own(&format!("KNOWN:{id}"))
    }

    /// Channel: control frames for all nodes.
    pub fn control(&self) -> String {
        self.own("CONTROL")
    }

    /// Hash: topic -> frame of its retained message.
    pub fn retained(&self) -> String {
        self.own("RETAIN")
    }

    /// Stream: every change of the retained messages.
    pub fn retained_log(&self) -> String {
        self.own("RETAIN:LOG")
    }

    /// Hash: topic -> JSON, as the predecessor wrote it.
    pub fn old_retained(&self) -> String {
        format!("{}:RETAIN", self.tag)
    }

    /// Hash: banned client, user or address -> when its ban ends; see `auth::group_bans`.
    pub fn bans(&self) -> String {
        self.own("BANS")
    }

    /// Hash: what a node counts, expiring.
    pub fn stats(&self, id: &str) -> String {
        self.own(&format!("STATS:{id}"))
    }

    /// Hash: what of a node's counters is in the group's totals.
    pub fn counted(&self, id: &str) -> String {
        self.own(&format!("COUNTED:{id}"))
    }

    /// Integer: a total of the group, as the predecessor named it.
    pub fn total(&self, name: &str) -> String {
        format!("STATS:{}:TOTAL_{name}", self.tag)
    }

    /// Channel: the predecessor's messages. Never of one slot: it publishes to the whole Cluster.
    pub fn old_publish(&self) -> String {
        format!("{}:PUB:BRIDGE", self.group)
    }

    /// Channel: the predecessor's kicks; the same.
    pub fn old_close(&self) -> String {
        format!("{}:CLOSE:BRIDGE", self.group)
    }

    /// A name that the predecessor never had.
    pub fn own(&self, name: &str) -> String {
        format!("{}:V2:{name}", self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(cluster: &[&str]) -> Keys {
        let mut config = Config::default();
        config.broker.group = "G".to_owned();
        config.redis.cluster.nodes = cluster.iter().map(|&node| node.to_owned()).collect();
        Keys::new(&config)
    }

    fn names(keys: &Keys) -> [String; 6] {
        let name = "A:01";
        let [node, inbox, session] = [keys.node("A"), keys.inbox(name), keys.session("c")];
        [node, inbox, session, keys.total("SENT"), keys.old_publish(), keys.fast(name)]
    }

    #[test]
    fn in_a_redis_cluster_the_groups_names_have_one_tag_and_elsewhere_none() {
        let alone = ["G:NODE:A", "G:V2:INBOX:A:01", "G:SESSION:c", "STATS:G:TOTAL_SENT"];
        let others = ["G:PUB:BRIDGE", "G:V2:BRIDGE:A:01"];
        let (keys, sharded) = (keys(&[]), keys(&["a:1"]));
        assert_eq!(names(&keys)[..4], alone);
        assert_eq!(names(&sharded)[..4], alone.map(|name| name.replacen('G', "{G}", 1)));
        for keys in [&keys, &sharded] {
            assert_eq!(names(keys)[4..], others);
        }
        assert_eq!((keys.publish(), sharded.publish()), ("PUBLISH", "SPUBLISH"));
    }
}
