//! What a node says when it is up: where it listens, what it keeps where, how to try it.

use std::net::SocketAddr;

use octopus_runtime::Address;

use crate::config::{Broker, Storage};

/// Two lines, and one more if there is a dashboard. `addresses` are those listened on, of which
/// the first is tried; `http` is where the dashboard is.
pub fn greeting(
    broker: &Broker,
    addresses: &[Address],
    shards: u16,
    http: Option<SocketAddr>,
) -> String {
    let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let shards = match shards {
        1 => "1 shard".to_owned(),
        count => format!("{count} shards"),
    };
    let mut text = format!(
        "octopus {} listening on {}, {shards}, storage {}, {}",
        env!("CARGO_PKG_VERSION"),
        list.join(" and "),
        storage(broker),
        if broker.auth.enable { "authentication required" } else { "anonymous allowed" },
    );
    if let Some(first) = addresses.first() {
        let to = reached_by(first);
        text.push_str(&format!(
            "\ntry: mosquitto_sub {to} -t 'hello/#' -v    and: mosquitto_pub {to} -t hello/world -m hi"
        ));
    }
    if let Some(http) = http {
        text.push_str(&format!("\ndashboard: http://{http}/"));
    }
    text
}

fn storage(broker: &Broker) -> String {
    let kinds = broker.storage.named();
    let first = kinds[0].1;
    if kinds.iter().any(|(_, storage)| *storage != first) {
        let kinds = kinds.map(|(kind, storage)| format!("{kind} {}", word(storage)));
        return kinds.join(" ");
    }
    match first {
        Storage::Local => "local (memory only)".to_owned(),
        Storage::Redis => "redis".to_owned(),
    }
}

fn word(storage: Storage) -> &'static str {
    match storage {
        Storage::Local => "local",
        Storage::Redis => "redis",
    }
}

/// The flags of mosquitto's clients that reach `address` from this machine.
fn reached_by(address: &Address) -> String {
    let (ip, port) = match address {
        Address::Tcp(address) => (address.ip(), address.port()),
        Address::Unix { path, .. } => return format!("--unix {}", path.display()),
    };
    if ip == std::net::Ipv4Addr::LOCALHOST || ip.is_unspecified() {
        format!("-p {port}")
    } else {
        format!("-h {ip} -p {port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Vec<Address> {
        let parse = |text: &&str| Address::Tcp(text.parse().expect("an address"));
        list.iter().map(parse).collect()
    }

    #[test]
    fn a_unix_socket_is_told_with_its_path() {
        let address = Address::Unix { path: "/run/a.sock".into(), mode: 0o660 };
        let text = greeting(&Broker::default(), &[address], 1, None);
        assert!(text.contains("on unix:/run/a.sock, 1 shard"), "{text}");
        assert!(text.contains("mosquitto_pub --unix /run/a.sock -t hello/world"), "{text}");
    }

    #[test]
    fn the_defaults_read_well() {
        let text = greeting(&Broker::default(), &addresses(&["127.0.0.1:20000"]), 2, None);
        let (first, second) = text.split_once('\n').expect("two lines");
        let rest = first.split_once(" listening ").map(|(_, rest)| rest);
        let expected =
            "on 127.0.0.1:20000, 2 shards, storage local (memory only), anonymous allowed";
        assert_eq!(rest, Some(expected));
        assert!(second.starts_with("try: mosquitto_sub -p 20000 -t 'hello/#'"), "{second}");
    }

    #[test]
    fn mixed_storage_and_other_addresses_are_told() {
        let mut broker = Broker::default();
        broker.storage.session = Storage::Redis;
        let http = "127.0.0.1:20080".parse().ok();
        let text = greeting(&broker, &addresses(&["10.0.0.1:1883", "[::]:1883"]), 1, http);
        for part in [
            "on 10.0.0.1:1883 and [::]:1883, 1 shard,",
            "storage retain local publish local subscription local session redis,",
            "mosquitto_pub -h 10.0.0.1 -p 1883 ",
            "\ndashboard: http://127.0.0.1:20080/",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }
}
