//! Writes the engine's notices to the log, one line each with its fields.

use octopus_engine::{DisconnectReason, LostCause, Notice, ShardId, SlowedBy};
use tracing::{info, warn};

pub(crate) fn log(shard: ShardId, notice: &Notice) {
    let shard = shard.0;
    match notice {
        Notice::Connected {
            client,
            address,
            listener,
            version,
            user,
            session_present,
            keep_alive_s,
        } => {
            let (listener, address) = (listener.0, address.as_ref().map(tracing::field::display));
            info!(
                shard,
                client = %Plain(client),
                address,
                listener,
                ?version,
                user = user.as_deref(),
                session_present,
                keep_alive_s,
                "connected"
            );
        }
        Notice::Disconnected { client, address, reason } => {
            let address = address.as_ref().map(tracing::field::display);
            let client = tracing::field::display(Plain(client));
            info!(shard, client, address, reason = %Reason(reason), "disconnected");
        }
        Notice::Refused { client, address, reason, more } => {
            let address = address.as_ref().map(tracing::field::display);
            let (client, reason) = (client.as_deref(), Reason(reason));
            info!(shard, client, address, %reason, more, "refused");
        }
        Notice::Memory { level, used, budget, more } => {
            warn!(shard, ?level, used, budget, more, "limits.memory_bytes_max: how full it is");
        }
        Notice::Slowed { client, address, listener, by, more } => {
            let (listener, address) = (listener.0, address.as_ref().map(tracing::field::display));
            let limit = match by {
                SlowedBy::Client => "limits.message_rate_max or limits.byte_rate_max",
                SlowedBy::Listener => "message_rate_max or byte_rate_max of the listener",
            };
            let client = tracing::field::display(Plain(client));
            info!(shard, client, address, listener, limit, more, "read more slowly");
        }
        Notice::Dropped { client, reason, more, .. } => {
            warn!(shard, client = %Plain(client), ?reason, more, "message dropped");
        }
    }
}

/// A name that somebody else has chosen, as a word of a log line: as it is if it is one, else in
/// quotes and escaped, so that no name can pass for other fields, or for other lines.
pub struct Plain<'a>(pub &'a str);

impl std::fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is_word = |letter: char| {
            letter.is_alphanumeric() || (letter.is_ascii_graphic() && !"\"\\=".contains(letter))
        };
        if !self.0.is_empty() && self.0.chars().all(is_word) {
            f.write_str(self.0)
        } else {
            write!(f, "{:?}", self.0)
        }
    }
}

/// A `DisconnectReason` in words.
struct Reason<'a>(&'a DisconnectReason);

impl std::fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            DisconnectReason::ByClient(code) => write!(f, "client: {}", code.name()),
            DisconnectReason::ByServer(code, why) => write!(f, "server: {} ({why})", code.name()),
            DisconnectReason::Lost(LostCause::ClosedByPeer) => f.write_str("closed by peer"),
            DisconnectReason::Lost(LostCause::Error) => f.write_str("connection error"),
            DisconnectReason::Lost(LostCause::Layer) => f.write_str("stream layer error"),
        }
    }
}

#[cfg(test)]
mod tests {
    use octopus_mqtt::ReasonCode;

    use super::*;

    #[test]
    fn a_name_cannot_pass_for_more_than_a_name() {
        for (name, text) in [
            ("sensor-7/a:b.c_d", "sensor-7/a:b.c_d"),
            ("fühler", "fühler"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("a address=1.2.3.4", "\"a address=1.2.3.4\""),
            ("a\nWARN authentication failed", "\"a\\nWARN authentication failed\""),
            ("\u{1b}[2J", "\"\\u{1b}[2J\""),
            ("\"", "\"\\\"\""),
        ] {
            assert_eq!(Plain(name).to_string(), text);
        }
    }

    #[test]
    fn a_reason_reads_as_words() {
        let reason = DisconnectReason::ByServer(ReasonCode::Success, "takeover".into());
        assert_eq!(Reason(&reason).to_string(), "server: Success (takeover)");
        let reason = DisconnectReason::Lost(LostCause::ClosedByPeer);
        assert_eq!(Reason(&reason).to_string(), "closed by peer");
    }
}
