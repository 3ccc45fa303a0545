#!/usr/bin/env bash
# Whether the files of this folder are what their readers take: the compose specification's schema,
# shell. Installs check-jsonschema (PyPI) into target/ where pip is there.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=target/deploy-venv
if [ ! -x $venv/bin/check-jsonschema ]; then
  python3 -m venv $venv
  $venv/bin/pip install --quiet check-jsonschema
fi
$venv/bin/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose*.yaml deploy/observe.yaml
for script in deploy/*.sh deploy/test/*.sh; do bash -n "$script"; done
if command -v shellcheck > /dev/null; then shellcheck deploy/*.sh deploy/test/*.sh; fi
