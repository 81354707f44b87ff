"""The digits network on an emulated Arm Cortex-M4 with 64 KB of RAM."""

import shutil
import subprocess

import numpy as np
import pytest
import torch

from multispike.datasets import load_dataset
from multispike.export.c import export_c
from multispike.export.quantise import quantise
from multispike.models import create_model

TOOLS = ("arm-none-eabi-gcc", "qemu-system-arm", "make")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]


@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} (benchmarks/deploy_arm.sh)")
def test_cortex_m4_gives_the_reference_logits(tmp_path):
    digits = load_dataset("digits", progress=False)
    mean, std = [float(v) for v in digits.mean], [float(v) for v in digits.std]
    torch.manual_seed(0)
    model = create_model("sparse_resnet20", in_channels=1)
    with torch.no_grad():  # batch norm takes the data's statistics, so that all layers fire
        for part in digits.train.inputs[:640].split(64):
            model.train()((part.float() / 255 - mean[0]) / std[0])
    network = quantise(model.eval(), mean, std, (1, 8, 8))
    pixels = digits.test.inputs[:20].numpy()
    np.save(tmp_path / "images.npy", pixels)
    export_c(network, tmp_path / "c")
    subprocess.run(["make", "-s", "-C", str(tmp_path / "c"), "mps2"], check=True)
    done = subprocess.run(
        [
            "qemu-system-arm", "-M", "mps2-an386", "-nographic",
            "-semihosting-config", "enable=on,target=native,arg=model,arg=images.npy",
            "-kernel", "c/model-mps2.elf",
        ],
        cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    numbers = (line.split("\t")[0] for line in done.stdout.splitlines())
    logits = np.array([line.split() for line in numbers], dtype=np.int64)
    expected = network.forward(pixels)
    assert np.array_equal(logits, expected)
    assert len(np.unique(expected)) > 100
