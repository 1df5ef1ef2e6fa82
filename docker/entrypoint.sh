#!/bin/sh
# numba reads compiled code only where it could also write it. So the image's goes to a place that
# is writable even where the root file system is not: some 10 MB, once a start.
set -eu
home="${OUTCOME_EXPORTER_HOME:-/opt/outcome-exporter}"
export NUMBA_CACHE_DIR="${NUMBA_CACHE_DIR:-/tmp/outcome-exporter-jit}"
[ -d "$NUMBA_CACHE_DIR" ] || cp -r "$home/jit" "$NUMBA_CACHE_DIR"
exec "$home/venv/bin/python" -m outcome_exporter "$@"
