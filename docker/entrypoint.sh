#!/bin/sh
# numba reads compiled code only where it could also write it. So the image's goes to a place that
# is writable even where the root file system is not: some 10 MB, once a start. Whole or not at all:
# that place may outlive a container that is killed meanwhile, and numba fails at half a file.
set -eu
home="${OUTCOME_EXPORTER_HOME:-/opt/outcome-exporter}"
export NUMBA_CACHE_DIR="${NUMBA_CACHE_DIR:-/tmp/outcome-exporter-jit}"
if [ ! -d "$NUMBA_CACHE_DIR" ]; then
  rm -rf "$NUMBA_CACHE_DIR.new"
  cp -r "$home/jit" "$NUMBA_CACHE_DIR.new"
  mv "$NUMBA_CACHE_DIR.new" "$NUMBA_CACHE_DIR"
fi
exec "$home/venv/bin/python" -m outcome_exporter "$@"
