//! Names of what a group keeps in Redis; the one place they are written.
//!
//! The predecessor's names stand as they were; what it never had is below `<GROUP>:V2:`.

/// Key and channel names of one group.
#[derive(Clone, Debug)]
pub struct Keys {
    group: Box<str>,
}

impl Keys {
    pub fn new(group: &str) -> Self {
        Self { group: group.into() }
    }

    pub fn group(&self) -> &str {
        &self.group
    }

    /// String: the incarnation that holds this node's lease.
    pub fn node(&self, id: &str) -> String {
        format!("{}:NODE:{id}", self.group)
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
    /// to where others have them, as the node is dead; `gone`, once it is forgotten.
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

    /// Set: clients whose sessions are this node's; see `store::scripts`.
    pub fn owned(&self, name: &str) -> String {
        self.own(&format!("OWNED:{name}"))
    }

    /// Hash: a session; see `store::scripts`.
    pub fn session(&self, client: &str) -> String {
        format!("{}:SESSION:{client}", self.group)
    }

    /// Hash: what a node wants, one field per entry; the empty field is `<epoch> <number>` of
    /// the last change.
    pub fn interest(&self, name: &str) -> String {
        self.own(&format!("INTEREST:{name}"))
    }

    /// Channel: fast frames for a node.
    pub fn fast(&self, name: &str) -> String {
        self.own(&format!("BRIDGE:{name}"))
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
        format!("{}:RETAIN", self.group)
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
        format!("STATS:{}:TOTAL_{name}", self.group)
    }

    /// Channel: the predecessor's messages.
    pub fn old_publish(&self) -> String {
        format!("{}:PUB:BRIDGE", self.group)
    }

    /// Channel: the predecessor's kicks.
    pub fn old_close(&self) -> String {
        format!("{}:CLOSE:BRIDGE", self.group)
    }

    /// A name that the predecessor never had.
    pub fn own(&self, name: &str) -> String {
        format!("{}:V2:{name}", self.group)
    }
}
