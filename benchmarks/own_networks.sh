#!/bin/sh
# An environment with timm, outside of this project's own; it takes 6 GB, and then runs
# own_networks.py on CIFAR-10 in it:
#   sh benchmarks/own_networks.sh FOLDER DATA-DIR
here=$(cd "$(dirname "$0")" && pwd)
data=$(cd "${2:?usage: own_networks.sh FOLDER DATA-DIR}" && pwd)
set -- "$1"
. "$here/venv.sh"
"$1/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1
"$1/bin/pip" install --quiet timm==1.0.31 "$here/..[deploy]"
cd "$here/.."
"$1/bin/python" benchmarks/own_networks.py "$data"
