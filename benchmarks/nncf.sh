#!/bin/sh
# An environment with OpenVINO's own quantiser, outside of this project's, for deploy_speed.py:
#   benchmarks/nncf.sh FOLDER && python benchmarks/deploy_speed.py --nncf FOLDER
. "$(dirname "$0")/venv.sh"
"$1/bin/pip" install --quiet openvino==2026.4.1 nncf==3.4.0
