#!/bin/sh
# Builds the whole Dockerfile without a registry: its base images are made of Debian's packages and
# of the Rust toolchain that is installed here. Needs root, buildah and mmdebstrap; takes about ten
# minutes and three GB, so tests/run.sh leaves it out.
#
#   tests/deploy/image.sh DIRECTORY      images and layers are left there
set -eu
cd "$(dirname "$0")/../.."
mkdir -p "$1"
store=$(cd "$1" && pwd)
export BUILDAH_ISOLATION=chroot
buildah() { command buildah --root "$store/images" --runroot "$store/run" "$@"; }
from() { sed -n "s/^FROM \([^ ]*\)$2.*/\1/p" deploy/Dockerfile | sed -n "$1p"; }

[ -f "$store/debian.tar" ] ||
    mmdebstrap --variant=minbase --include=ca-certificates bookworm "$store/debian.tar"
base=$(buildah from scratch)
buildah add --quiet "$base" "$store/debian.tar" /
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$base"
buildah commit --quiet "$base" "docker.io/library/$(from 2 '')"

# Certificates of this machine: it may reach crates.io by a proxy of its own.
buildah add --quiet "$base" /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
buildah add --quiet "$base" "$(rustc --print sysroot)" /usr/local/rust
buildah config --env CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt \
    --env PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$base"
buildah commit --quiet "$base" "docker.io/library/$(from 1 ' AS')"
buildah rm "$base" >/dev/null

buildah bud --layers --pull-never --network host --ignorefile deploy/Dockerfile.dockerignore \
    --file deploy/Dockerfile --tag octopus:0.1.0 .
image=$(buildah mount "$(buildah from --pull-never localhost/octopus:0.1.0)")
echo "the image's root: $image"
chroot "$image" /usr/local/bin/octopus --version
