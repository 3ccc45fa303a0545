#!/usr/bin/env bash
# Renders every overlay and checks what comes out. Needs kubectl (Debian: kubernetes-client) and a
# Python with kubernetes-validate (TANDEM_TEST_PYTHON, or python3); says so where one is missing.
set -euo pipefail
cd "$(dirname "$0")"

python=${TANDEM_TEST_PYTHON:-python3}
skip() { printf 'SKIPPED the manifests of deploy/kubernetes: %s\n' "$1" >&2; exit 0; }
command -v kubectl > /dev/null || skip "install kubectl (the Debian package kubernetes-client)"
"$python" -c 'import jsonschema, kubernetes_validate, yaml' 2> /dev/null \
  || skip "install the Python package kubernetes-validate, or set TANDEM_TEST_PYTHON"

rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT
for overlay in cpu gpu; do
  kubectl kustomize "$overlay" > "$rendered/$overlay.yaml"
  "$python" check.py "$rendered/$overlay.yaml"
done
