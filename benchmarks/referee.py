"""Networks that nobody here wrote, as they are: what `profile` counts against independent hooks.

    sh benchmarks/referee.sh FOLDER     (makes an environment in FOLDER and runs this file in it)

Dense networks of timm: every multiply-accumulate against `torch.utils.flop_counter`. Spiking ones
of SpikingJelly, snnTorch, norse and sinabs: what non-zero inputs of convolutions and linear layers
meet, against forward hooks written here. Writes results/referee.json, a row at a time.
"""

from __future__ import annotations

import argparse
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from multispike import profile
from multispike.activity import record_activity
from multispike.environment import environment
from multispike.files import write_json
from multispike.layer_record import Synapses
from multispike.neurons import MultiLevelIF

TARGET = Path(__file__).parent.parent / "results" / "referee.json"
LIBRARIES = ("timm", "spikingjelly", "snntorch", "norse", "sinabs")

TIMM = (
    "resnet18", "resnext50_32x4d", "wide_resnet50_2", "densenet121", "vgg11_bn", "mobilenetv2_100",
    "mobilenetv3_large_100", "efficientnet_b0", "regnety_004", "convnext_atto", "convnextv2_atto",
    "inception_v3", "dpn68", "ghostnet_100", "mnasnet_100", "hrnet_w18_small", "res2net50_26w_4s",
    "resnest14d", "seresnet18", "dm_nfnet_f0", "convmixer_768_32", "repvgg_a0",
    "vit_tiny_patch16_224", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224",
    "mixer_s16_224", "maxvit_tiny_tf_224", "mobilevit_s", "mobilevitv2_050",
    "xcit_nano_12_p16_224", "cait_xxs24_224", "pit_ti_224", "levit_128s", "poolformer_s12",
    "edgenext_xx_small", "coat_tiny",
)  # fmt: skip
EXPLAINED = {
    "timm maxvit_tiny_tf_224": "the counter has 6,634,992 more: products of weights with constants"
    " (relative positions), the same at every inference",
}
T, SAMPLES = 4, 2


def _spikingjelly(
    name: str, function: str, **options: Any
) -> Callable[[], tuple[nn.Module, Tensor]]:
    def build() -> tuple[nn.Module, Tensor]:
        jelly = "spikingjelly.activation_based"
        neuron, functional = (import_module(f"{jelly}.{part}") for part in ("neuron", "functional"))
        made = dict(options)
        if kind := made.pop("neuron", "IFNode"):
            made["spiking_neuron"] = getattr(neuron, kind)
        size = made.pop("size", 64)
        network = getattr(import_module(f"{jelly}.model.{name}"), function)(**made)
        functional.set_step_mode(network, "m")
        return network, 2 * torch.rand(T, SAMPLES, 3, size, size)

    return build


STATELESS = (nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.Flatten)


class Steps(nn.Module):
    """A network of one timestep's modules, T times, as tutorials have it: the mean over time."""

    def __init__(self, layers: list[nn.Module], states: bool) -> None:
        super().__init__()
        self.layers, self.states = nn.ModuleList(layers), states

    def forward(self, x: Tensor) -> Tensor:
        kept: dict[int, Any] = {}
        outputs = []
        for step in x:
            for index, layer in enumerate(self.layers):
                takes = self.states and not isinstance(layer, STATELESS)
                if takes:
                    step, kept[index] = layer(step, kept.get(index))
                else:
                    step = layer(step)
            outputs.append(step)
        return torch.stack(outputs).mean(0)


def _convolutional(neuron: Callable[[], nn.Module], states: bool) -> tuple[nn.Module, Tensor]:
    layers = [
        nn.Conv2d(1, 12, 5), nn.MaxPool2d(2), neuron(),
        nn.Conv2d(12, 64, 5), nn.MaxPool2d(2), neuron(),
        nn.Flatten(), nn.Linear(64 * 16, 10), neuron(),
    ]  # fmt: skip
    return Steps(layers, states), 3 * torch.rand(T, SAMPLES, 1, 28, 28)


def snntorch() -> tuple[nn.Module, Tensor]:
    """Tutorial 6's convolutional network; potentials are the modules' own."""
    library = import_module("snntorch")
    return _convolutional(lambda: library.Leaky(beta=0.5, init_hidden=True), states=False)


def norse() -> tuple[nn.Module, Tensor]:
    """The same layers with LIF cells, which take their state and give it back."""
    library = import_module("norse.torch")
    return _convolutional(lambda: library.LIFBoxCell(), states=True)


class Squeezed(nn.Sequential):
    """Samples and their timesteps share the first axis, samples first."""

    def forward(self, x: Tensor) -> Tensor:
        steps = len(x)
        return super().forward(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (-1, steps)).mean(1)


def sinabs() -> tuple[nn.Module, Tensor]:
    """The same layers with IF neurons and poolings that sum."""
    layers = import_module("sinabs.layers")
    network = Squeezed(
        nn.Conv2d(1, 12, 5), layers.IAFSqueeze(batch_size=SAMPLES), layers.SumPool2d(2),
        nn.Conv2d(12, 64, 5), layers.IAFSqueeze(batch_size=SAMPLES), layers.SumPool2d(2),
        nn.Flatten(), nn.Linear(64 * 16, 10), layers.IAFSqueeze(batch_size=SAMPLES),
    )  # fmt: skip
    return network, torch.rand(T, SAMPLES, 1, 28, 28)


SPIKING: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    **{
        f"spikingjelly sew_resnet18 {cnf}": _spikingjelly("sew_resnet", "sew_resnet18", cnf=cnf)
        for cnf in ("ADD", "AND", "IAND")
    },
    "spikingjelly spiking_resnet18": _spikingjelly("spiking_resnet", "spiking_resnet18"),
    "spikingjelly spiking_vgg11_bn": _spikingjelly("spiking_vgg", "spiking_vgg11_bn"),
    "spikingjelly spiking_resnet18, ternary": _spikingjelly(
        "spiking_resnet", "spiking_resnet18", neuron="TernaryIFNode"
    ),
    "spikingjelly spiking_resnet18, I-LIF": _spikingjelly(
        "spiking_resnet", "spiking_resnet18", neuron="ILIFNode"
    ),
    "spikingjelly spikformer": _spikingjelly(
        "spikformer", "spikformer_cifar10", neuron="", size=32
    ),
    "spikingjelly qkformer": _spikingjelly("qkformer", "qkformer_10_384", neuron="", size=64),
    "spikingjelly maxformer": _spikingjelly("maxformer", "maxformer_cifar", neuron="", size=32),
    "spikingjelly spike-driven transformer": _spikingjelly(
        "spike_driven_transformer", "sdt_8_384", neuron="", size=64
    ),
    "snntorch tutorial 6": snntorch,
    "norse LIF": norse,
    "sinabs IAF": sinabs,
}


def dense(name: str) -> dict[str, Any]:
    """A network of timm at its own input size, with random weights."""
    timm: Any = import_module("timm")
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False).eval()
    size = network.pretrained_cfg["input_size"][1]
    image = torch.rand(1, 3, size, size)
    network(image)
    began = time.process_time()
    with torch.no_grad():
        network(image)
    forward = time.process_time() - began
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network(image)  # fused attention is not in its registry for CPUs
    began = time.process_time()
    report = profile(network, [(image, torch.zeros(1, dtype=torch.long))])
    ours = sum(layer.counts.mac for layer in report.layers)
    theirs = counter.get_total_flops() / 2
    return {
        "network": f"timm {name}",
        "priced_as": report.network,
        "macs": ours,
        "macs_by_flop_counter": theirs,
        "equal": ours == theirs,
        "explained": EXPLAINED.get(f"timm {name}"),
        "uj": report.total_nj / 1e3,
        "times_a_forward": (time.process_time() - began) / forward,
        "not_counted": list(report.not_counted),
    }


def spiking(name: str) -> dict[str, Any]:
    """A spiking network with random weights; batch norms with the statistics of its batches."""
    torch.manual_seed(0)
    network, inputs = SPIKING[name]()
    _reset(network)
    with torch.no_grad():
        for _ in range(3):
            network(inputs)
            _reset(network)
    network.eval()
    with torch.no_grad(), _Hooks(network) as hooks:
        network(inputs)
    _reset(network)
    labels = torch.zeros(SAMPLES, dtype=torch.long)
    activity = record_activity(network, [(inputs, labels)], timesteps=T)
    ours = {"met": 0.0, "dense": 0.0}
    for record in activity.records:
        if isinstance(record, Synapses) and record.kind != "matmul":
            ours["met"] += record.input.taps * record.fan
            ours["dense"] += record.timesteps * record.geometry.dense_taps * record.fan
    _reset(network)
    report = profile(network, [(inputs, labels)], timesteps=T)
    theirs = {key: value / SAMPLES for key, value in hooks.counted.items()}
    return {
        "network": name,
        "priced_as": report.network,
        "met": ours["met"],
        "met_by_hooks": theirs["met"],
        "dense": ours["dense"],
        "dense_by_hooks": theirs["dense"],
        "equal": ours == theirs,
        "uj": report.total_nj / 1e3,
        "not_counted": list(report.not_counted),
    }


class Sends(nn.Module):
    """A neuron that sends its input as it is, and the convolution that reads it."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.neuron = MultiLevelIF(levels, float(levels))
        self.conv = nn.Conv2d(16, 32, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.neuron(x)).mean((2, 3))


def one_convolution() -> list[dict[str, Any]]:
    """The same 20 % of places, sent as 1 or as levels 1 to 4: prices of us and of SpikingJelly."""
    counter: Any = import_module("spikingjelly.activation_based.op_counter")
    generator = torch.Generator().manual_seed(0)
    places = (torch.rand(1, 16, 16, 16, generator=generator) < 0.2).float()
    graded = places * torch.randint(1, 5, places.shape, generator=generator)
    found = []
    for sent, levels, x in (("binary", 1, places), ("levels 1 to 4", 4, graded)):
        network = Sends(levels)
        labelled = [(x, torch.zeros(1, dtype=torch.long))]
        priced = {
            name: profile(network, labelled, name) for name in ("spikingjelly", "lemaire2022")
        }
        theirs = counter.estimate_lemaire_energy(nn.Sequential(network.conv), x)
        found.append({
            "network": f"3x3 convolution, 16 to 32 channels, 16x16, {sent}",
            "met": sum(vars(priced["spikingjelly"].layers[0].counts)[key] for key in ("ac", "mac")),
            "uj": {name: report.layers[0].energy_nj.total / 1e3 for name, report in priced.items()},
            "uj_by_spikingjelly": theirs.total_pj / 1e6,
            "multiplications_by_spikingjelly": theirs.counts["mac"],
        })  # fmt: skip
    return found


def _reset(network: nn.Module) -> None:
    """By the libraries' own means."""
    for module in network.modules():
        if hasattr(module, "reset_states"):
            module.reset_states()  # pyright: ignore
        elif hasattr(module, "reset_mem"):
            module.reset_mem()  # pyright: ignore
        elif type(module).__module__.startswith("spikingjelly") and hasattr(module, "reset"):
            module.reset()  # pyright: ignore


class _Hooks:
    """What the inputs of convolutions and linear layers meet: weights at non-zero inputs, and all;
    padding meets nothing."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.counted = network, {"met": 0.0, "dense": 0.0}

    def __enter__(self) -> _Hooks:
        kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
        chosen = [module for module in self.network.modules() if isinstance(module, kinds)]
        self.handles = [module.register_forward_hook(self._count) for module in chosen]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _count(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0]
        for name, present in (("met", (x != 0)), ("dense", torch.ones_like(x, dtype=torch.bool))):
            present = present.double()
            if isinstance(module, nn.Linear):
                self.counted[name] += present.sum().item() * module.out_features
                continue
            spatial = module.weight.dim() - 2
            present = present.reshape(-1, *x.shape[-spatial - 1 :])
            run = F.conv1d if spatial == 1 else F.conv2d
            ones = torch.ones_like(module.weight, dtype=torch.float64)
            met = run(
                present, ones, None, module.stride, module.padding, module.dilation, module.groups
            )
            self.counted[name] += met.sum().item()


def rows(names: list[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        measure = spiking if name in SPIKING else dense
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the libraries
                row = measure(name)
        except Exception as error:  # named in the table: a network that does not run is a result
            traceback.print_exc()
            row = {"network": name, "failed": f"{type(error).__name__}: {error}"}
        print(row["network"], row.get("failed", "equal" if row["equal"] else "DIFFERS"), flush=True)
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", help="names that contain this")
    parser.add_argument("--out", type=Path, default=TARGET)
    arguments = parser.parse_args()
    names = [name for name in (*SPIKING, *TIMM) if (arguments.only or "") in name]
    found = [] if arguments.only else one_convolution()
    versions = {name: version(name) for name in LIBRARIES}
    for row in rows(names):
        found.append(row)
        write_json(arguments.out, {
            "command": "sh benchmarks/referee.sh FOLDER",
            "rows": found,
            "environment": {**environment(), **versions},
        })  # fmt: skip


if __name__ == "__main__":
    main()
