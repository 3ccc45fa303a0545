#!/usr/bin/env bash
# The images that deploy/Dockerfile builds on, where no image can be pulled: a base from Debian's
# packages, and a builder that is this base with the Rust toolchain of this machine and the sources of
# all dependencies, so that the build needs no network.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(realpath -m "$1")
mkdir -p "$work"

have() { docker image inspect "$1" > /dev/null 2>&1; }

if ! have tandem-base:test; then
  # shellcheck disable=SC1091
  . /etc/os-release
  mirror=$(deploy/test/mirror.sh)
  rm -rf "$work/base"
  mmdebstrap --variant=minbase --mode=root --include=prometheus,gcc,g++,libc6-dev \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    "$VERSION_CODENAME" "$work/base" "$mirror"
  tar -C "$work/base" -c . | docker import - tandem-base:test
  # As the image of the Prometheus project.
  install -d -o 65534 -g 65534 "$work/base/prometheus"
  tar -C "$work/base" -c . | docker import --change 'ENTRYPOINT ["prometheus"]' - tandem-prometheus:test
  rm -rf "$work/base"
fi

# It holds the crates of one lock file.
builder=tandem-builder:$(sha256sum Cargo.lock | cut -c 1-12)
if ! have "$builder"; then
  toolchain=$(rustc --print sysroot)
  rm -rf "$work/builder"
  mkdir -p "$work/builder/usr/local/rust" "$work/builder/usr/local/cargo"
  # The base has none, as slim images.
  install -D /etc/ssl/certs/ca-certificates.crt "$work/builder/etc/ssl/certs/ca-certificates.crt"
  cp -a "$toolchain"/bin "$toolchain"/lib "$work/builder/usr/local/rust"
  cargo vendor --quiet --locked "$work/builder/usr/local/crates" > /dev/null
  cat > "$work/builder/usr/local/cargo/config.toml" << END
[source.crates-io]
replace-with = "vendored"
[source.vendored]
directory = "/usr/local/crates"
END
  container=$(docker create tandem-base:test true)
  docker export "$container" | tar -C "$work/builder" -x
  docker rm "$container" > /dev/null
  tar -C "$work/builder" -c . | docker import \
    --change 'ENV PATH=/usr/local/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'ENV CARGO_HOME=/usr/local/cargo' --change 'ENV CARGO_NET_OFFLINE=true' - "$builder"
  rm -rf "$work/builder"
fi
docker tag "$builder" tandem-builder:test
