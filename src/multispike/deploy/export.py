"""A trained run as one of the deployment formats. Importing this loads no torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multispike.data import DATASETS
from multispike.errors import invalid, unknown

if TYPE_CHECKING:
    from multispike.deploy.integer import IntegerNetwork

NETWORK = "network.npz"
"""The integer network itself, beside whatever format: `multispike.deploy.store.load` reads it."""


def _onnx(network: IntegerNetwork, folder: Path) -> None:
    from multispike.deploy.runtimes import export_onnx

    export_onnx(network, folder / "model.onnx")


def _openvino(network: IntegerNetwork, folder: Path) -> None:
    from multispike.deploy.runtimes import export_openvino

    export_openvino(network, folder / "model.xml")


def _c(network: IntegerNetwork, folder: Path) -> None:
    from multispike.deploy.c_export import export_c

    export_c(network, folder, overwrite=True)


def _nir(network: IntegerNetwork, folder: Path) -> None:
    from multispike.deploy.nir_graph import export_nir

    export_nir(network, folder / "model.nir")


FORMATS: dict[str, Callable[[IntegerNetwork, Path], None]] = {
    "c": _c,
    "nir": _nir,
    "onnx": _onnx,
    "openvino": _openvino,
}
"""Format -> writer; a new format is a new row."""


def export_run(
    run: str | os.PathLike[str],
    format: str,
    out: str | os.PathLike[str],
    checkpoint: str = "last.ckpt",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Quantise a run's network and write it to the folder `out`.

    Returns:
        {"arch", "format", "out", "timesteps", "levels", "logit_scale", "weights", "largest_bound",
        "files": {name: bytes}}: `weights` of one byte each, and `largest_bound`, below 2^31, is
        proven for every sum.

    Raises:
        InputError: for an unknown format, a folder that is not empty without `overwrite`, or a
            network that integers, or the format, can't carry; then nothing is written.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    folder = Path(out)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not overwrite):
        raise invalid("out", str(folder), "an empty or new folder, or --overwrite")

    from multispike.deploy.quantise import quantise
    from multispike.deploy.store import save
    from multispike.training.run import load_run

    trained = load_run(Path(run), checkpoint)
    data = trained.data
    events = DATASETS[data["name"]].events
    shape = tuple(data["input_shape"])
    network = quantise(trained.network, data["mean"], data["std"], shape, events=events)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        FORMATS[format](network, folder)
    except BaseException:
        if made and not any(folder.iterdir()):
            folder.rmdir()
        raise
    save(network, folder / NETWORK)
    every = [one for layer in network.layers for one in getattr(layer, "synapses", ())]
    return {
        "arch": network.arch,
        "format": format,
        "out": str(folder),
        "timesteps": network.timesteps,
        "levels": trained.network.config["levels"],
        "logit_scale": network.logit_scale,
        "weights": sum(one.weight.size for one in every if one.weight is not None),
        "largest_bound": max(network.bounds.values()),
        "files": {
            path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()
        },
    }
