"""Our `qualia` profile beside Qualia's own `EnergyEstimationMetric`, which runs as it is published.

    sh benchmarks/qualia.sh FOLDER     (makes an environment in FOLDER and runs this file in it)

Four small networks of SpikingJelly's layers, priced at each width by both, with the same weights
and inputs. Writes results/qualia.json: our records, and the pJ that theirs gives for each layer and
category. `differences` says what every one of them is.
"""

from __future__ import annotations

import csv
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from multispike.activity import record_activity
from multispike.energy.pricing import price_layers
from multispike.energy.profiles import BITS, get_profile
from multispike.environment import environment
from multispike.files import known_fields, write_json
from multispike.layer_record import LayerRecord, Synapses

TARGET = Path(__file__).parent.parent / "results" / "qualia.json"
LIBRARIES = ("qualia-core", "qualia-plugin-snn", "qualia-codegen-plugin-snn", "spikingjelly")
CATEGORIES = {
    "ops": "ops", "addressing": "addr", "weights": "mem_weights", "potentials": "mem_pot",
    "bias": "mem_bias", "io": "mem_io",
}  # fmt: skip
"""Ours, and theirs."""
T, SAMPLES, SIDE = 4, 8, 8


class Network(nn.Module):
    """Convolutions and a linear layer; `middle` has a stride, a max-pooling or residual sums."""

    def __init__(self, neuron: Callable[[], nn.Module], middle: str) -> None:
        super().__init__()
        spiking = neuron is not nn.ReLU
        layers: Any = import_module("spikingjelly.activation_based.layer") if spiking else nn
        sums = middle == "sums"
        stride = 2 if middle == "stride" else 1
        self.conv1, self.neuron1 = layers.Conv2d(2, 8, 3, 1 + sums, 1), neuron()
        self.pool = layers.MaxPool2d(2) if middle == "pool" else None
        self.conv2, self.neuron2 = layers.Conv2d(8, 8, 3, stride, 1, bias=False), neuron()
        if sums:
            add = "qualia_plugin_snn.learningmodel.pytorch.layers.spikingjelly.Add"
            self.sum1, self.sum2 = import_module(add).Add(), import_module(add).Add()
            self.conv3, self.neuron3 = layers.Conv2d(8, 8, 3, 1, 1), neuron()
        self.flatten, self.fc = layers.Flatten(), layers.Linear(8 * SIDE // 2 * SIDE // 2, 10)
        # What Qualia asks of a network.
        self.input_shape, self.output_shape = (SIDE, SIDE, 2), (10,)
        if spiking:
            self.is_snn, self.timesteps, self.step_mode = True, T, "m"
            self.input_shape = (T, *self.input_shape)
            import_module("spikingjelly.activation_based.functional").set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        x = self.neuron1(self.conv1(x))
        y = self.neuron2(self.conv2(self.pool(x) if self.pool else x))
        if hasattr(self, "sum1"):
            y = self.sum1(x, y)
            y = self.sum2(y, self.neuron3(self.conv3(y)))
        return self.fc(self.flatten(y))


class Held(nn.Module):
    """A network of T timesteps on one image, as Qualia runs it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.unsqueeze(0).repeat(T, 1, 1, 1, 1)).mean(0)


def _neuron(kind: str, **options: Any) -> Callable[[], nn.Module]:
    made = getattr(import_module("spikingjelly.activation_based.neuron"), kind)
    return lambda: made(v_threshold=0.3, v_reset=None, **options)


def networks() -> Iterator[tuple[str, nn.Module, bool]]:
    """Name, network, and whether it reads event frames instead of an image."""
    torch.manual_seed(0)
    yield "ANN", Network(nn.ReLU, "stride"), False
    yield "IF, an image", Network(_neuron("IFNode"), "stride"), False
    yield "LIF, event frames", Network(_neuron("LIFNode", decay_input=False), "pool"), True
    yield "IF and sums, an image", Network(_neuron("IFNode"), "sums"), False


def theirs(network: nn.Module, x: Tensor, frames: bool, bits: int) -> dict[str, dict[str, float]]:
    """pJ by category, by the names of their rows, as their log has them."""
    metric: Any = import_module("qualia_plugin_snn.postprocessing")
    frameworks: Any = import_module("qualia_plugin_snn.learningframework")
    data: Any = import_module("qualia_core.datamodel.RawDataModel")
    result: Any = import_module("qualia_core.qualia").TrainResult
    logger: Any = import_module("qualia_core.utils.logger").Logger
    runs = frameworks.SpikingJellyMultiStep
    if frames:
        runs = frameworks.SpikingJellyMultiStepTimeStepsInData
    framework = runs(enable_progress_bar=False, accelerator="cpu", devices=1)
    used = {
        "name": "", "model": network, "framework": framework, "batch_size": SAMPLES,
        "testset": data.RawData(x.movedim(-3, -1).numpy(), torch.eye(SAMPLES, 10).numpy()),
        "dataaugmentations": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        logger.logpath = Path(folder)
        price = metric.EnergyEstimationMetric(
            bits, int(get_profile("qualia").value("fifo_elements"))
        )
        price(result(**dict.fromkeys(result.__annotations__) | used), None)
        (file,) = Path(folder).rglob("*.csv")
        rows = [row for row in csv.DictReader(file.open()) if row["name"] != "Total"]
    return {
        row["name"]: {ours: float(row[name]) for ours, name in CATEGORIES.items()} for row in rows
    }


def differences(record: LayerRecord, bits: int, spiking: bool) -> dict[tuple[str, str], float]:
    """What theirs has more than ours, nJ, by reason and category: formulas, no figure of theirs."""
    prices = get_profile("qualia")
    ours = price_layers([record], prices, bits, network="snn" if spiking else "ann").layers[0]
    if not isinstance(record, Synapses):
        return {
            ("nothing for poolings and sums", key): -nj for key, nj in vars(ours.energy_nj).items()
        }
    r, add, mac = record, prices.add(bits), prices.mac(bits)
    found: defaultdict[tuple[str, str], float] = defaultdict(float)

    def more(reason: str, category: str, pj: float) -> None:
        found[reason, category] += pj / 1e3

    if not spiking:
        more("additions without a bias", "ops", (not r.bias) * r.out_size * add)
        return found
    if units := r.kind == "conv" and r.input.levels > 1:  # directly behind a sum
        unrolled = price_layers([r], prices, bits, graded_op="unroll").layers[0]
        for key, nj in vars(ours.energy_nj).items():
            more("each unit of a sum is an event", key, 1e3 * (vars(unrolled.energy_nj)[key] - nj))
    image, n = r.input.levels == 0, r.input.amplitude if units else r.input.events
    analog = not units and r.input.levels != 1
    seen, convolves = n / r.timesteps if analog else n, r.kind == "conv"
    reached, skipped = r.fan * r.geometry.kernel_size, seen - n
    pj = {name: prices.access(memory.elements, bits) for name, memory in ours.memories.items()}
    queue = prices.access(prices.value("fifo_elements"), bits)
    later = r.bias * (r.steps_out - 1) * r.out_size  # biases at all timesteps but one
    levels = "levels: one timestep's mean"
    more(levels, "io", skipped * queue)
    more(levels, "weights", skipped * reached * pj["weights"])
    more(levels, "addressing", skipped * (2 * mac * convolves + reached * add))
    more(levels, "ops", skipped * reached * mac - (analog and not image) * later * add)
    more("an image passes a queue", "io", image * n * (queue - pj["inputs"]))
    more("the bias of a stem at each timestep", "bias", image * later * pj["bias"])
    strided = r.synapses / r.in_size - r.fan * r.geometry.strided_size
    more("a strided stem meets K²/S², not ⌈K/S⌉²", "ops", image * n * strided * mac)
    unbiased = (not r.bias) * (1 if analog else r.steps_out) * r.out_size
    more("additions without a bias", "ops", unbiased * add)
    leaking = bool(r.neuron and r.neuron.leak)
    more("a leak adds too", "ops", leaking * r.steps_out * r.out_size * add)
    dropped = seen * r.geometry.kernel_size * (1 - r.fan)
    more("addresses without Co", "addressing", convolves * dropped * add)
    rate = seen * r.out_size * (1 / r.in_size - 1)
    more("a rate for a count of addresses", "addressing", (not convolves) * rate * add)
    return found


def explained(
    records: list[LayerRecord], theirs_pj: dict[str, dict[str, float]], bits: int, spiking: bool
) -> Iterator[tuple[str, str, float, float]]:
    """Layer, category, their nJ, and ours with all differences. Flattening is a layer of theirs."""
    network = "snn" if spiking else "ann"
    for layer, pj in zip(
        price_layers(records, "qualia", bits, network=network).layers,
        [pj for name, pj in theirs_pj.items() if not name.startswith("flatten")],
        strict=True,
    ):
        assert layer.record
        more = differences(layer.record, bits, spiking)
        for key, nj in vars(layer.energy_nj).items():
            differs = sum(value for (_, category), value in more.items() if category == key)
            yield layer.name, key, pj[key] / 1e3, nj + differs


def main() -> None:
    rows = []
    for name, network, frames in networks():
        network.eval()
        x = torch.rand(SAMPLES, 2, SIDE, SIDE)
        if frames:
            x = (torch.rand(SAMPLES, T, 2, SIDE, SIDE) < 0.2).float()
        priced = {str(bits): theirs(network, x, frames, bits) for bits in BITS}
        spiking = hasattr(network, "is_snn")
        if spiking:
            import_module("spikingjelly.activation_based.functional").reset_net(network)
        ours = network if frames or not spiking else Held(network)
        labelled = [(x.transpose(0, 1) if frames else x, torch.zeros(SAMPLES, dtype=torch.long))]
        records = record_activity(ours, labelled, timesteps=T if spiking else None).records
        found: defaultdict[str, float] = defaultdict(float)
        for record in records:
            for (reason, _), nj in differences(record, 32, spiking).items():
                found[reason] += nj
        report = price_layers(records, "qualia", network="snn" if spiking else "ann")
        rows.append({
            "network": name,
            "spiking": spiking,
            "nj": report.total_nj,
            "nj_by_qualia": sum(sum(layer.values()) for layer in priced["32"].values()) / 1e3,
            "differences_nj": {reason: nj for reason, nj in found.items() if nj},
            "records": [known_fields(record) for record in records],
            "theirs_pj": priced,
        })  # fmt: skip
    write_json(TARGET, {
        "command": "sh benchmarks/qualia.sh FOLDER",
        "rows": rows,
        "environment": {**environment(), **{name: version(name) for name in LIBRARIES}},
    })  # fmt: skip


if __name__ == "__main__":
    main()
