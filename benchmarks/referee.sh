#!/bin/sh
# An environment with the libraries whose networks referee.py counts, outside of this project's own;
# it takes 6 GB, and then runs referee.py in it:
#   sh benchmarks/referee.sh FOLDER
. "$(dirname "$0")/venv.sh"
here=$(cd "$(dirname "$0")" && pwd)
"$1/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1
"$1/bin/pip" install --quiet spikingjelly==2.0.0 snntorch==1.0.0 norse==1.1.0 sinabs==3.1.3 timm==1.0.31
"$1/bin/pip" install --quiet "$here/.."
"$1/bin/python" "$here/referee.py"
