#!/bin/sh
# Counts the synaptic operations of our networks with NeuroBench, in an environment of its own:
#   sh benchmarks/neurobench.sh FOLDER
set -eu
if [ $# -ne 1 ]; then
    echo "usage: $0 FOLDER" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
if [ ! -x "$1/bin/python" ]; then
    python3 -m venv "$1"
    "$1/bin/pip" install --quiet torch==2.13.0 neurobench==2.3.0 snntorch==1.0.0
fi
PYTHONPATH="$here/../src" "$1/bin/python" "$here/neurobench_synops.py"
