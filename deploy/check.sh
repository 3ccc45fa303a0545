#!/usr/bin/env bash
# Whether the files of this folder are what their readers take: compose's schema, shell. Needs a Python
# with check-jsonschema (TANDEM_TEST_PYTHON, or python3) and shellcheck; says so where one is missing.
set -euo pipefail
cd "$(dirname "$0")"
python=${TANDEM_TEST_PYTHON:-python3}

skip() { printf 'SKIPPED %s\n' "$1" >&2; }
if "$python" -c 'import check_jsonschema' 2> /dev/null; then
  "$python" -m check_jsonschema --builtin-schema vendor.compose-spec compose*.yaml test/compose.yaml observe.yaml
else
  skip "the compose files: install the Python package check-jsonschema, or set TANDEM_TEST_PYTHON"
fi
scripts=(*.sh test/*.sh kubernetes/*.sh slurm/*.sh slurm/*.sbatch)
for script in "${scripts[@]}"; do bash -n "$script"; done
if command -v shellcheck > /dev/null; then
  shellcheck "${scripts[@]}"
else
  skip "the shell scripts: install shellcheck"
fi
