//! The relay itself: who gets whose bytes. Knows no sockets, so both servers share it.
//!
//! A connection's first [`HELLO_BYTES`] say its role and group; then all that a publisher sends
//! goes to every subscriber of its group.

/// Role (`p` or `s`) and group (u32, little-endian).
pub(crate) const HELLO_BYTES: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Unknown,
    Publisher(u32),
    Subscriber,
}

struct Client {
    role: Role,
    queued: Vec<u8>,
    writing: bool,
    dirty: bool,
}

/// Clients by their index, given by the server.
#[derive(Default)]
pub(crate) struct Relay {
    clients: Vec<Client>,
    /// Subscribers by group.
    groups: Vec<Vec<u32>>,
    /// Clients with bytes to send and no write in flight.
    dirty: Vec<u32>,
}

impl Relay {
    pub(crate) fn open(&mut self, index: u32) {
        let client =
            || Client { role: Role::Unknown, queued: Vec::new(), writing: false, dirty: false };
        if self.clients.len() <= index as usize {
            self.clients.resize_with(index as usize + 1, client);
        }
        self.clients[index as usize] = client();
    }

    pub(crate) fn close(&mut self, index: u32) {
        self.groups.iter_mut().for_each(|group| group.retain(|member| *member != index));
        self.dirty.retain(|member| *member != index);
    }

    /// A hello comes whole: the load sends it alone and at once.
    pub(crate) fn received(&mut self, index: u32, bytes: &[u8]) {
        let client = &mut self.clients[index as usize];
        let group = match (client.role, bytes) {
            (Role::Publisher(group), _) => group,
            (Role::Unknown, [role, group @ ..]) if bytes.len() >= HELLO_BYTES => {
                let number = u32::from_le_bytes([group[0], group[1], group[2], group[3]]);
                if self.groups.len() <= number as usize {
                    self.groups.resize_with(number as usize + 1, Vec::new);
                }
                if *role == b's' {
                    client.role = Role::Subscriber;
                    self.groups[number as usize].push(index);
                } else {
                    client.role = Role::Publisher(number);
                }
                return;
            }
            _ => return,
        };
        for member in &self.groups[group as usize] {
            let client = &mut self.clients[*member as usize];
            client.queued.extend_from_slice(bytes);
            if !client.dirty && !client.writing {
                client.dirty = true;
                self.dirty.push(*member);
            }
        }
    }

    /// The next client to write to and its bytes, swapped against an empty `spare`.
    pub(crate) fn next_write(&mut self) -> Option<(u32, Vec<u8>)> {
        let index = self.dirty.pop()?;
        let client = &mut self.clients[index as usize];
        client.dirty = false;
        client.writing = true;
        Some((index, std::mem::take(&mut client.queued)))
    }

    /// A write is done; its memory comes back, emptied.
    pub(crate) fn written(&mut self, index: u32, spare: Vec<u8>) {
        let client = &mut self.clients[index as usize];
        client.writing = false;
        if client.queued.is_empty() {
            client.queued = spare;
        } else {
            client.dirty = true;
            self.dirty.push(index);
        }
    }
}
