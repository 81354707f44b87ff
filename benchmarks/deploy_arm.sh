#!/bin/sh
# Install Debian's cross compiler and emulator where they are missing, then run a trained network
# on an emulated Cortex-M4 and compare its logits, bit for bit, with the integer reference.
#
#     benchmarks/deploy_arm.sh RUN ... [options of deploy_arm.py]
set -eu
if ! command -v arm-none-eabi-gcc >/dev/null || ! command -v qemu-system-arm >/dev/null; then
    apt-get update
    apt-get install -y --no-install-recommends \
        gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm make
fi
exec "${PYTHON:-python3}" "$(dirname "$0")/deploy_arm.py" "$@"
