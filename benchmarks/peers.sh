#!/bin/sh
# An environment with the libraries that speed.py compares against, outside of this project's own:
#   benchmarks/peers.sh FOLDER && python benchmarks/speed.py --peers FOLDER
# It takes 6 GB, since SpikingJelly 2 needs torchvision, and that the CUDA build of torch.
. "$(dirname "$0")/venv.sh"
"$1/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1
"$1/bin/pip" install --quiet spikingjelly==2.0.0 snntorch==1.0.0
