//! The fuzzer's body with made-up bytes, as long as a test may take.

use octopus_sim::{Random, fuzz_operations};

#[test]
fn whatever_clients_do_the_node_stands_and_its_books_balance() {
    for seed in super::seeds() {
        let mut random = Random::new(seed);
        let bytes: Vec<u8> = (0..3000).map(|_| random.number() as u8).collect();
        if std::panic::catch_unwind(|| fuzz_operations(&bytes)).is_err() {
            panic!("operations of seed {seed}: the panic is above");
        }
    }
}
