//! The relay itself: who gets whose bytes. Knows no sockets, so both servers share it.
//!
//! A connection's first [`HELLO_BYTES`] say its role and group, or its first MQTT packets do
//! (`mqtt`); then all that a publisher sends goes to every subscriber of its group.

use crate::mqtt::{Hello, Hellos};

/// Role (`p` or `s`) and group (u32, little-endian).
pub(crate) const HELLO_BYTES: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Unknown,
    Publisher(u32),
    /// Of this group.
    Subscriber(u32),
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
    /// The publisher of each group, if its subscribers' bytes go back to it.
    publishers: Vec<Option<u32>>,
    /// If connections begin with MQTT.
    hellos: Option<Hellos>,
    /// Clients with bytes to send and no write in flight.
    dirty: Vec<u32>,
}

impl Relay {
    /// A relay for MQTT clients.
    pub(crate) fn for_mqtt() -> Self {
        Self { hellos: Some(Hellos::default()), ..Self::default() }
    }

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
        self.publishers.iter_mut().for_each(|publisher| {
            publisher.take_if(|publisher| *publisher == index);
        });
    }

    pub(crate) fn received(&mut self, index: u32, bytes: &[u8]) {
        match self.clients[index as usize].role {
            Role::Publisher(group) => {
                for at in 0..self.groups[group as usize].len() {
                    self.queue(self.groups[group as usize][at], bytes);
                }
            }
            Role::Subscriber(group) => {
                if let Some(publisher) = self.publishers[group as usize] {
                    self.queue(publisher, bytes);
                }
            }
            Role::Unknown => match &mut self.hellos {
                Some(hellos) => {
                    let hello = hellos.read(index, bytes);
                    self.handle_hello(index, hello, bytes);
                }
                None => self.handle_plain_hello(index, bytes),
            },
        }
    }

    fn queue(&mut self, index: u32, bytes: &[u8]) {
        let client = &mut self.clients[index as usize];
        client.queued.extend_from_slice(bytes);
        if !client.dirty && !client.writing {
            client.dirty = true;
            self.dirty.push(index);
        }
    }

    /// A hello comes whole: the load sends it alone and at once.
    fn handle_plain_hello(&mut self, index: u32, bytes: &[u8]) {
        let Some((&[role, ref group @ ..], _)) = bytes.split_first_chunk::<HELLO_BYTES>() else {
            return;
        };
        let group = u32::from_le_bytes(*group);
        self.join(
            index,
            if role == b's' { Role::Subscriber(group) } else { Role::Publisher(group) },
        );
    }

    fn handle_hello(&mut self, index: u32, hello: Hello, bytes: &[u8]) {
        match hello {
            Hello::Answer(answer) => self.queue(index, &answer),
            Hello::Subscribe(group, answer) => {
                self.queue(index, &answer);
                self.join(index, Role::Subscriber(group));
            }
            Hello::Publish(group) => {
                self.join(index, Role::Publisher(group));
                self.publishers[group as usize] = Some(index);
                self.received(index, bytes);
            }
            Hello::Unknown => {}
        }
    }

    fn join(&mut self, index: u32, role: Role) {
        self.clients[index as usize].role = role;
        let (Role::Publisher(group) | Role::Subscriber(group)) = role else { return };
        if self.groups.len() <= group as usize {
            self.groups.resize_with(group as usize + 1, Vec::new);
            self.publishers.resize(group as usize + 1, None);
        }
        if matches!(role, Role::Subscriber(_)) {
            self.groups[group as usize].push(index);
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
