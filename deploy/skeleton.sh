#!/bin/sh
# Copies the workspace without its sources, so that an image layer with the compiled dependencies
# depends on nothing else: manifests, the lock file, and an empty stand-in for every target.
set -eu
to=$1
mkdir -p "$to"
cp Cargo.toml Cargo.lock "$to"

stub() {
  mkdir -p "$(dirname "$1")"
  echo "fn main() {}" > "$1"
}

find . -name Cargo.toml -not -path './target/*' -not -path './fuzz/*' | while read -r manifest; do
  dir=$(dirname "$manifest")
  [ "$dir" = . ] && continue
  mkdir -p "$to/$dir/src"
  cp "$manifest" "$to/$dir"
  if [ -f "$dir/src/lib.rs" ]; then : > "$to/$dir/src/lib.rs"; fi
  for file in src/main.rs build.rs; do
    if [ -f "$dir/$file" ]; then stub "$to/$dir/$file"; fi
  done
  sed -n 's/^path = "\([^"]*\.rs\)"$/\1/p' "$manifest" | while read -r file; do
    stub "$to/$dir/$file"
  done
done
