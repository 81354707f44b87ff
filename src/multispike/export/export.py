"""A trained run as one of the deployment formats. Importing this loads no torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multispike.errors import unknown
from multispike.export.folder import NETWORK, check_free, filling

if TYPE_CHECKING:
    from multispike.export.network import IntegerNetwork


def _onnx(network: IntegerNetwork, folder: Path) -> None:
    from multispike.export.runtimes import export_onnx

    export_onnx(network, folder / "model.onnx")


def _openvino(network: IntegerNetwork, folder: Path) -> None:
    from multispike.export.runtimes import export_openvino

    export_openvino(network, folder / "model.xml")


def _c(network: IntegerNetwork, folder: Path) -> None:
    from multispike.export.c import write_c

    write_c(network, folder)


def _nir(network: IntegerNetwork, folder: Path) -> None:
    from multispike.export.nir import export_nir

    export_nir(network, folder / "model.nir")


FORMATS: dict[str, Callable[[IntegerNetwork, Path], None]] = {
    "c": _c,
    "nir": _nir,
    "onnx": _onnx,
    "openvino": _openvino,
}
"""Format -> writer; a new format is a new row, here and in `folder.FILES`."""


def export_run(
    run: str | os.PathLike[str],
    format: str,
    out: str | os.PathLike[str],
    checkpoint: str = "last.ckpt",
    overwrite: bool = False,
    *,
    evaluate: bool = False,
    finetune: int = 0,
    data_dir: str | None = None,
    limit_test: int | None = None,
) -> dict[str, Any]:
    """Quantise a run's network and write it to the folder `out`.

    Args:
        run, format, out, checkpoint: what, as what, where to.
        overwrite: replace files of the format's names in `out`, and what earlier exports of other
            formats left there.
        evaluate: compare the integer network with the float one on the run's test samples.
        finetune: epochs of training with rounded weights; implies `evaluate`. What comes out is
            kept unless it gets fewer of these samples right than before.
        data_dir, limit_test: as for `multispike.training.evaluation.data_of`.

    Returns:
        {"arch", "format", "out", "timesteps", "levels", "logit_scale", "weights", "largest_bound",
        "accuracy", "finetuned", "files": {name: bytes}}: `weights` of one byte each,
        `largest_bound`, below 2^31, proven for every sum, and `files` what was written. "accuracy"
        has the fields of `multispike.export.trained.Accuracy`, or is None without `evaluate`;
        "finetuned" has those after `finetune` epochs, or is None.

    Raises:
        InputError: for an unknown format, a folder that is not empty without `overwrite`, missing
            data, or a network that integers, or the format, can't carry; then nothing is written.
        RunError: where the loss of the fine-tuning is no longer finite; what is written then is
            the network without it.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    folder = Path(out)
    check_free("out", folder, overwrite, "--overwrite")

    from multispike.export.trained import compare, finetune_run, quantise_run
    from multispike.training.evaluation import data_of, evaluation_loader, tell_unfinished
    from multispike.training.run import load_run

    trained = load_run(Path(run), checkpoint)
    tell_unfinished(trained)
    network = quantise_run(trained)
    if evaluate or finetune:
        dataset = data_of(trained, data_dir, limit_test)
        loader = evaluation_loader(trained, dataset)
    written = _write(network, format, folder)
    accuracy = finetuned = None
    if evaluate or finetune:
        accuracy = compare(trained, network, loader)
        if finetune:
            finetune_run(trained, dataset, finetune)
            tuned = quantise_run(trained)
            finetuned = compare(trained, tuned, loader)
            if finetuned.integer >= accuracy.integer:
                network = tuned
                written = _write(network, format, folder)
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
        "accuracy": asdict(accuracy) if accuracy else None,
        "finetuned": asdict(finetuned) if finetuned else None,
        "files": written,
    }


def _write(network: IntegerNetwork, format: str, folder: Path) -> dict[str, int]:
    """The format's files and the integer network; their names and bytes."""
    from multispike.export.serialize import save
    from multispike.progress import progress_bar

    with progress_bar(True) as bar, filling(folder) as temporary:
        bar.add_task(f"writing {format}", total=None)
        FORMATS[format](network, temporary)
        save(network, temporary / NETWORK)
        return {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
