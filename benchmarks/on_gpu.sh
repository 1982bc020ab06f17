#!/bin/sh
# Measure on a GPU: benchmarks/on_gpu.sh [--parts a,b] [--budget SECONDS] [--out FOLDER] [--wheels FOLDER]
# Needs Python with torch 2.9 or later and no network; PYTHON names another interpreter. See benchmarks/on_gpu.py.
set -eu
root="$(cd "$(dirname "$0")/.." && pwd)"
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" -u -m benchmarks.on_gpu "$@"
