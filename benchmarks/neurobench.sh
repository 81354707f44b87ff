#!/bin/sh
# Counts the synaptic operations of our networks with NeuroBench, in an environment of its own:
#   sh benchmarks/neurobench.sh FOLDER
here=$(cd "$(dirname "$0")" && pwd)
. "$here/venv.sh"
"$1/bin/pip" install --quiet torch==2.13.0 neurobench==2.3.0 snntorch==1.0.0
PYTHONPATH="$here/../src" "$1/bin/python" "$here/neurobench_synops.py"
