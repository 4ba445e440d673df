#!/bin/sh
# Builds broker, floor and generator and runs them side by side with every peer of bench/peers
# that is installed. Arguments go to `octopus-bench compare`, such as:
#   bench/compare.sh --scenario 'pairs*' --rounds 5
# Prints markdown; each single run goes as a line of JSON into bench/results/, and one picture
# per scenario beside it if python3 has matplotlib.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin
commit=$(git describe --always --dirty)
output=bench/results/$(date -u +%Y-%m-%d)-$commit.jsonl
brokers=octopus,floor
for peer in mosquitto flashmq rumqttd rmqtt:rmqttd nanomq; do
    if command -v "${peer#*:}" >/dev/null; then brokers=$brokers,${peer%:*}; fi
done
cargo build --release -p octopus -p octopus-bench
status=0
target/release/octopus-bench compare --broker "$brokers" --commit "$commit" --output "$output" \
    "$@" || status=$?
if python3 -c 'import matplotlib' 2>/dev/null; then
    python3 bench/plot.py "$output" "${output%.jsonl}-plots"
fi
exit $status
