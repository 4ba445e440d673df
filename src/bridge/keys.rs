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

    /// Hash: node id -> `<epoch> <incarnation>`; nodes that were not yet forgotten.
    pub fn nodes(&self) -> String {
        self.own("NODES")
    }

    /// Integer: the last epoch given to a node.
    pub fn epoch(&self) -> String {
        self.own("EPOCH")
    }

    /// A name that the predecessor never had.
    pub fn own(&self, name: &str) -> String {
        format!("{}:V2:{name}", self.group)
    }
}
