#!/bin/sh
# An environment with OpenVINO's own quantiser, outside of this project's, for deploy_speed.py:
#   benchmarks/nncf.sh FOLDER && python benchmarks/deploy_speed.py --nncf FOLDER
set -eu
if [ $# -ne 1 ]; then
    echo "usage: $0 FOLDER" >&2
    exit 2
fi
python3 -m venv "$1"
"$1/bin/pip" install --quiet openvino==2026.4.1 nncf==3.4.0
