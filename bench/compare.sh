#!/bin/sh
# Builds broker and generator and runs them side by side with Debian's mosquitto. Arguments go
# to `octopus-bench compare`, such as: bench/compare.sh --scenario 'pairs*' --rounds 5
# Prints markdown; each single run goes as a line of JSON into bench/results/.
set -eu
cd "$(dirname "$0")/.."
commit=$(git describe --always --dirty)
output=bench/results/$(date -u +%Y-%m-%d)-$commit.jsonl
mkdir -p bench/results
cargo build --release --bin octopus --bin octopus-bench -p octopus -p octopus-bench
exec target/release/octopus-bench compare --commit "$commit" --output "$output" "$@"
