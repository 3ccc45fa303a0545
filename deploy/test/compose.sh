#!/usr/bin/env bash
# Prints a directory for DOCKER_CONFIG in which `docker compose` is version 2. Debian 12 has version 1
# only, so that the plugin is taken from Debian 13's package, without installing it.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
work=$(realpath -m "$1")

if docker compose version > /dev/null 2>&1; then
  echo "${DOCKER_CONFIG:-$HOME/.docker}"
  exit
fi
plugins=$work/docker/cli-plugins
if [ ! -x "$plugins/docker-compose" ]; then
  mkdir -p "$plugins" "$work"/apt/{lists/partial,archives/partial} "$work/package"
  mirror=$("$here"/mirror.sh)
  cat > "$work/apt/trixie.sources" << END
Types: deb
URIs: $mirror
Suites: trixie
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
  apt=(-o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$work/apt" -o "APT::Sandbox::User=root"
    -o "Dir::State::lists=$work/apt/lists" -o "Dir::Cache=$work/apt")
  apt-get "${apt[@]}" update -qq >&2
  (cd "$work/package" && apt-get "${apt[@]}" download -qq docker-compose >&2)
  dpkg -x "$work"/package/docker-compose_*.deb "$work/package"
  find "$work/package" -path '*cli-plugins/docker-compose' -exec cp {} "$plugins" \;
  DOCKER_CONFIG=$work/docker docker compose version >&2
fi
echo "$work/docker"
