#!/usr/bin/env bash
# Reads the scripts of this directory as bash and shellcheck do; says so where that is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
scripts=(deploy/slurm/tandem.sbatch deploy/slurm/check.sh deploy/kubernetes/check.sh tests/slurm/srun tests/slurm/scancel)
for script in "${scripts[@]}"; do bash -n "$script"; done
if ! command -v shellcheck > /dev/null; then
  echo 'SKIPPED shellcheck of the scripts of deploy: install the Debian package shellcheck' >&2
  exit 0
fi
shellcheck "${scripts[@]}"
