//! Runs about messages that the broker holds: first fill it, then take out and time what it has.

use std::{io, time::Duration};

use octopus_mqtt::QoS;

use crate::{
    cli::{OfflineOptions, RetainedOptions},
    plan::{Cause, Plan, Replay, Spread},
};

/// Bound for filling and emptying a broker; both end with the last message.
const HELD_TIMEOUT: Duration = Duration::from_secs(60);

impl Plan {
    /// The three runs of the retained scenario: publish, replay and, unless they shall stay,
    /// delete.
    pub(super) fn retained(options: &RetainedOptions) -> io::Result<Vec<Self>> {
        let fill = Self {
            publishers: 1,
            topic: "bench/retained/%n".into(),
            warmup: Duration::ZERO,
            ..Self::new("retained-publish", &options.common)?
        };
        let mut fill = fill.with(&options.traffic).acknowledged();
        fill.window = options.traffic.inflight.unwrap_or(100).max(1);
        fill.retain = true;
        fill.limit = Some(options.count);
        let replay = Self {
            name: "retained-replay",
            publishers: 0,
            subscribers: 1,
            filter: "bench/retained/#".into(),
            qos: options.traffic.qos,
            limit: None,
            replay: Some(Replay { count: options.count, caused_by: Cause::Subscribe }),
            spread: Spread::Group,
            ..fill.clone()
        };
        let delete = Self { name: "retained-delete", payload: Vec::new(), ..fill.clone() };
        Ok(if options.keep { vec![fill, replay] } else { vec![fill, replay, delete] })
    }

    /// The three runs of the offline scenario: leave sessions behind, publish to them, come back.
    pub(super) fn offline(options: &OfflineOptions) -> io::Result<Vec<Self>> {
        let clients = options.clients.count_or(200);
        let publish = Self {
            publishers: clients,
            topic: "bench/offline/%i".into(),
            filter: "bench/offline/%i".into(),
            client_id: "bench-publisher-%r-%i".into(),
            warmup: Duration::ZERO,
            ..Self::new("offline-publish", &options.clients.common)?
        };
        let mut publish = publish.with(&options.traffic).acknowledged();
        let count = clients as u64 * options.messages;
        publish.limit = Some(count);
        let leave = Self {
            name: "offline-leave",
            publishers: 0,
            subscribers: clients,
            client_id: options.clients.common.broker.client_id.clone(),
            clean_start: false,
            limit: None,
            duration: Duration::ZERO,
            ..publish.clone()
        };
        let replay = Some(Replay { count, caused_by: Cause::Connect });
        let back = Self { name: "offline-back", duration: HELD_TIMEOUT, replay, ..leave.clone() };
        Ok(vec![leave, publish, back])
    }

    /// At QoS 1 at least, so that the broker has all of it when the run ends.
    fn acknowledged(self) -> Self {
        Self { qos: self.qos.max(QoS::AtLeastOnce), duration: HELD_TIMEOUT, ..self }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn plans(line: &str) -> Vec<Plan> {
        let cli = Cli::try_parse_from(line.split(' ')).expect("a lawful line");
        Plan::of(&cli.command).expect("an address")
    }

    #[test]
    fn retained_messages_are_published_replayed_and_deleted() {
        let runs = plans("b retained -c 10");
        let names: Vec<_> = runs.iter().map(|plan| plan.name).collect();
        assert_eq!(names, ["retained-publish", "retained-replay", "retained-delete"]);
        assert_eq!(runs[0].qos, QoS::AtLeastOnce);
        assert_eq!(runs[1].replay, Some(Replay { count: 10, caused_by: Cause::Subscribe }));
        assert!(runs[2].payload.is_empty() && runs[2].retain);
        assert_eq!(plans("b retained -c 10 --keep").len(), 2);
    }

    #[test]
    fn a_session_is_left_filled_and_taken_up_by_the_same_client() {
        let runs = plans("b offline -c 3 --messages 7");
        let names: Vec<_> = runs.iter().map(|plan| plan.name).collect();
        assert_eq!(names, ["offline-leave", "offline-publish", "offline-back"]);
        assert!(runs.iter().all(|plan| plan.qos == QoS::AtLeastOnce && plan.run == runs[0].run));
        assert_eq!(runs[0].client_id, runs[2].client_id);
        assert_ne!(runs[0].client_id, runs[1].client_id);
        assert_eq!((runs[0].clean_start, runs[1].clean_start), (false, true));
        assert_eq!(runs[1].limit, Some(21));
        assert_eq!(runs[2].replay, Some(Replay { count: 21, caused_by: Cause::Connect }));
    }
}
