//! Client Identifiers that put the two clients of each pair on one thread of the broker, or on
//! two. Which it is the broker decides by its own hash, so it is asked.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use clap::Parser;

use crate::{
    cli::Cli,
    compare::{broker::Broker, scenario::Place},
    plan::Plan,
    run::{Mark, run},
};

/// Identifiers tried for each client of a pair: enough that both threads get their half.
const TRIED_PER_CLIENT: usize = 4;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Identifiers for `pairs` publishers, then for their subscribers. `None` if the broker does not
/// tell where its clients are.
///
/// # Errors
/// If the API does not answer as it should, or the clients are too unevenly spread.
pub(crate) fn client_ids(
    broker: &Broker,
    pairs: usize,
    place: Place,
) -> io::Result<Option<Vec<String>>> {
    let Some((port, path)) = broker.homes().and_then(|homes| homes.split_once(' ')) else {
        return Ok(None);
    };
    let port = port.parse().map_err(io::Error::other)?;
    let tried = 2 * pairs * TRIED_PER_CLIENT;
    let line = format!(
        "octopus-bench conn -c {tried} -I place-%i --duration 0 --quiet --port {}",
        broker.port()
    );
    let cli = Cli::try_parse_from(line.split(' ')).map_err(io::Error::other)?;
    let mut homes = Ok(Vec::new());
    for plan in Plan::of(&cli.command)? {
        run(plan, &mut |mark| {
            if mark == Mark::Connected {
                homes = (0..tried).map(|id| home(port, path, &format!("place-{id}"))).collect();
            }
        })?;
    }
    let numbers = pair_up(&homes?, pairs, place);
    let numbers = numbers.ok_or_else(|| io::Error::other("too few clients on one thread"))?;
    Ok(Some(numbers.into_iter().map(|number| format!("place-{number}")).collect()))
}

/// The home of a connected client, as the API at `port` tells it.
fn home(port: u16, path: &str, client_id: &str) -> io::Result<u64> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let request =
        format!("GET {path}{client_id} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    shard_in(&answer)
        .ok_or_else(|| io::Error::other(format!("no shard in the answer about {client_id}")))
}

fn shard_in(answer: &str) -> Option<u64> {
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str::<serde_json::Value>(body).ok()?.get("shard")?.as_u64()
}

/// Numbers of `pairs` publishers, half of them on each of the two threads, then of their
/// subscribers. `homes`: the thread of each number.
fn pair_up(homes: &[u64], pairs: usize, place: Place) -> Option<Vec<usize>> {
    let mut on: [Vec<usize>; 2] = [Vec::new(), Vec::new()];
    for (number, &home) in homes.iter().enumerate() {
        on[usize::from(home != homes[0])].push(number);
    }
    let (mut publishers, mut subscribers) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let side = pair % 2;
        publishers.push(on[side].pop()?);
        let side = if place == Place::SameThread { side } else { 1 - side };
        subscribers.push(on[side].pop()?);
    }
    publishers.append(&mut subscribers);
    Some(publishers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_on_one_thread_or_on_two_and_half_of_them_on_each() {
        let homes = [7, 3, 7, 3, 7, 3, 7, 3];
        for place in [Place::SameThread, Place::AcrossThreads] {
            let numbers = pair_up(&homes, 4, place).expect("enough of each");
            let (publishers, subscribers) = numbers.split_at(4);
            for (publisher, subscriber) in publishers.iter().zip(subscribers) {
                let is_same = homes[*publisher] == homes[*subscriber];
                assert_eq!(is_same, place == Place::SameThread, "{numbers:?}");
            }
            assert_eq!(publishers.iter().filter(|&&number| homes[number] == 7).count(), 2);
        }
        assert_eq!(pair_up(&[0, 0, 0, 0], 2, Place::AcrossThreads), None);
    }

    #[test]
    fn a_home_is_read_from_the_answer() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{\"shard\": 5}";
        assert_eq!(shard_in(answer), Some(5));
        assert_eq!(shard_in("HTTP/1.1 404 Not Found\r\n\r\n{}"), None);
    }
}
