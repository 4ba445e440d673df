//! Every limit of a shard: its unit, its scope, its default and what happens at it.

use std::time::Duration;

/// Limits of one shard and what lives on it. All are per shard, session or connection as said;
/// the process divides what is configured per node.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one packet from a client, fixed header included. Larger: the connection is
    /// closed (0x95 Packet too large). Per connection.
    pub packet_size_max: u32,
    /// Time from accept to a complete CONNECT. Later: closed without an answer. Per connection.
    pub connect_timeout: Duration,
    /// Keep Alive used for version 5 clients that ask for more, or for none (Server Keep
    /// Alive); 0 accepts any. Seconds, per connection.
    pub keep_alive_max_s: u16,
    /// Bytes waiting to be sent. Above: QoS 0 is dropped and counted, QoS 1 and 2 stay in the
    /// session's queue, and the client is not read until half of it is sent. Per connection.
    pub out_bytes_max: usize,
    /// PUBLISH packets of QoS 1 and 2 sent and not yet acknowledged; the client's Receive
    /// Maximum lowers it. More wait in the queue, and so does what follows `queue_bytes_max`
    /// of them. Per session.
    pub inflight_count_max: u16,
    /// QoS 1 and 2 PUBLISH packets accepted from a client and not yet finished: the Receive
    /// Maximum we announce. A version 5 client above it is closed (0x93); an older client
    /// never sees it, and a QoS 2 identifier past it closes the connection. Per connection.
    pub receive_max: u16,
    /// Topic Aliases accepted from a client (Topic Alias Maximum). Per connection.
    pub topic_alias_max: u16,
    /// Topic Aliases used towards a client that allows more. Per connection.
    pub topic_alias_out_max: u16,
    /// Messages waiting in a session's queue. At the limit: `queue_full` decides. Per session.
    pub queue_count_max: u32,
    /// Topic plus payload bytes waiting in a session's queue. Per session.
    pub queue_bytes_max: usize,
    /// Which message goes when the queue is full.
    pub queue_full: QueueFull,
    /// Subscriptions of one session. More: 0x97 Quota exceeded (3.1.1: 0x80).
    pub subscription_count_max: u32,
    /// Levels of a Topic Name or Topic Filter. More: 0x90 or 0x8F.
    pub topic_levels_max: u16,
    /// Retained messages this shard keeps. More: the message is delivered, not retained, and
    /// counted.
    pub retained_count_max: u32,
    /// Topic plus payload bytes of the retained messages this shard keeps.
    pub retained_bytes_max: usize,
    /// Sessions this shard keeps, connected or not. More: CONNECT is refused (0x97).
    pub session_count_max: u32,
    /// Longest Session Expiry Interval; a 3.1.1 session that is not clean gets it too.
    pub session_expiry_max: Duration,
    /// Bytes that clients make this shard keep; 0: no budget. As it fills, things are shed in
    /// the order of [`crate::MemoryLevel`]; what was promised is not.
    pub memory_bytes_max: usize,
    /// PUBLISH packets a second from one client; 0: any. A client above it is read later;
    /// nothing is dropped. A second's worth may come at once. Per connection.
    pub message_rate_max: u32,
    /// Bytes a second from one client; 0: any. As `message_rate_max`. Per connection.
    pub byte_rate_max: usize,
    /// Who stays when a Client Identifier that is connected comes again.
    pub duplicate_login: DuplicateLogin,
    /// Highest QoS the server accepts (Maximum QoS), 0 to 2.
    pub qos_max: octopus_mqtt::QoS,
    /// `false`: a RETAIN flag is refused (0x9A) and CONNACK says so.
    pub retain_available: bool,
    /// `false`: a Topic Filter with wildcards is refused (0xA2; 3.1.1: 0x80 in SUBACK) and
    /// CONNACK says so.
    pub wildcard_available: bool,
    /// `false`: the same for Shared Subscriptions (0x9E).
    pub shared_available: bool,
    /// `false`: the same for Subscription Identifiers (0xA1).
    pub subscription_id_available: bool,
    /// Bytes of a payload from which it is shared by reference instead of copied to each
    /// subscriber's buffer.
    pub shared_payload_min: usize,
    /// Messages of a retained replay handed over at a time; the next follow when these are
    /// sent. Per subscription.
    pub retained_slice_count: usize,
}

/// Messages and bytes a second; 0: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    pub messages: u32,
    pub bytes: usize,
}

impl Rate {
    pub(crate) fn is_any(self) -> bool {
        self == Self::default()
    }
}

impl Limits {
    /// What one client may send.
    pub(crate) fn client_rate(&self) -> Rate {
        Rate { messages: self.message_rate_max, bytes: self.byte_rate_max }
    }
}

/// What gives way when a session's queue is full. Either is counted as `queue_full`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFull {
    /// The newest: what is queued stays, the new message is dropped.
    DropNewest,
    /// The oldest queued message that was not sent yet is dropped for the new one.
    DropOldest,
}

/// What happens to a CONNECT with the Client Identifier of a live connection. Both are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DuplicateLogin {
    /// The newer connection takes the session over [MQTT-3.1.4-3].
    TakeOver,
    /// The newer connection is refused (0x85) as long as the older one lives. Against the
    /// letter of the specification, for those who need it.
    RefuseNewer,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet_size_max: 1 << 20,
            connect_timeout: Duration::from_secs(10),
            keep_alive_max_s: 0,
            out_bytes_max: 1 << 20,
            inflight_count_max: 1024,
            receive_max: 1024,
            topic_alias_max: 32,
            topic_alias_out_max: 32,
            queue_count_max: 10_000,
            queue_bytes_max: 16 << 20,
            queue_full: QueueFull::DropNewest,
            subscription_count_max: 10_000,
            topic_levels_max: 128,
            retained_count_max: 1_000_000,
            retained_bytes_max: 1 << 30,
            session_count_max: 1_000_000,
            session_expiry_max: Duration::from_secs(7 * 24 * 3600),
            memory_bytes_max: 0,
            message_rate_max: 0,
            byte_rate_max: 0,
            duplicate_login: DuplicateLogin::TakeOver,
            qos_max: octopus_mqtt::QoS::ExactlyOnce,
            retain_available: true,
            wildcard_available: true,
            shared_available: true,
            subscription_id_available: true,
            shared_payload_min: 2048,
            retained_slice_count: 64,
        }
    }
}
