"""Synaptic operations of a binary network of ours, counted by NeuroBench and by us.

    sh benchmarks/neurobench.sh FOLDER     (makes an environment in FOLDER and runs this file in it)

NeuroBench insists on snnTorch and versions of its own, so this runs outside the project's
environment and needs of multispike only the models and the activity pass. Writes
results/neurobench.json.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import torch
from neurobench.metrics.workload import SynapticOperations
from neurobench.models import TorchModel
from torch import nn

from multispike.activity import record_activity
from multispike.energy.count import synops
from multispike.environment import environment
from multispike.files import write_json
from multispike.models import create_model

TARGET = Path(__file__).parent.parent / "results" / "neurobench.json"
CASES = (
    ("fastnet", {"neuron": "binary", "timesteps": 4}),
    ("vgg11", {"neuron": "binary", "timesteps": 4}),
    ("spiking_resnet20", {"neuron": "binary", "timesteps": 4}),
    ("vgg11", {"neuron": "relu"}),
)


def calibrated(arch: str, options: dict[str, object], images: torch.Tensor) -> nn.Module:
    """A network with batch statistics of real numbers, so that its neurons fire realistically.

    No weight is left exactly zero, as fastnet's start from the identity would: NeuroBench does not
    count the operations of zero weights, we do, and trained weights have none.
    """
    torch.manual_seed(0)
    model = create_model(arch, **options)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3 * torch.randn_like(parameter))
        for _ in range(10):
            model(images)
    return model.eval()


def by_neurobench(model: nn.Module, images: torch.Tensor) -> dict[str, float]:
    """Effective ACs, effective MACs and dense operations per image, by NeuroBench."""
    wrapped = TorchModel(model)
    wrapped.register_hooks()
    metric = SynapticOperations()
    with torch.no_grad():
        wrapped(images)
    # It takes the number of samples from the data, and the operations from its hooks.
    counted = metric(wrapped, None, (images,))
    wrapped.cleanup_hooks()
    return {
        "effective_acs": counted["Effective_ACs"],
        "effective_macs": counted["Effective_MACs"],
        "dense": counted["Dense"],
    }


def main() -> None:
    images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    targets = torch.zeros(16, dtype=torch.long)
    rows = []
    for arch, options in CASES:
        model = calibrated(arch, options, images)
        theirs = by_neurobench(model, images)
        ours = vars(synops(record_activity(model, [(images, targets)]).records))
        rows.append({"arch": arch, **options, "neurobench": theirs, "multispike": ours})
        print(json.dumps(rows[-1]))
    versions = {name: version(name) for name in ("neurobench", "snntorch")}
    result = {"command": "sh benchmarks/neurobench.sh FOLDER", "images": len(images), "rows": rows}
    write_json(TARGET, {**result, "environment": {**environment(), **versions}})


if __name__ == "__main__":
    main()
