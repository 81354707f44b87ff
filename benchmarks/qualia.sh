#!/bin/sh
# An environment with Qualia and its plugin for SNNs (AGPL-3, nothing of it is in this project),
# outside of this project's own; it takes 6 GB, and then runs qualia.py in it:
#   sh benchmarks/qualia.sh FOLDER
. "$(dirname "$0")/venv.sh"
here=$(cd "$(dirname "$0")" && pwd)
"$1/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1
"$1/bin/pip" install --quiet qualia-core==2.6.0 "qualia-plugin-snn[codegen]==2.6.0" spikingjelly==2.0.0
"$1/bin/pip" install --quiet "$here/.."
cd "$1" # Lightning writes logs to where it runs
bin/python "$here/qualia.py"
