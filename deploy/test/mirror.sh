#!/bin/sh
# Prints where this machine takes Debian's packages from.
cat /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2> /dev/null \
  | sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb \([^ ]*\) .*/\1/p' | head -n 1
