"""What the goldens hold and how it is computed: outputs of the code from before a restructuring.

`CASES` maps "group/case" to a function without arguments whose plain value is compared with the one
recorded in `tests/golden/GROUP.json.gz` (`tests/test_golden.py`). Everything of `multispike` is
imported in the functions here, and nowhere else in the goldens.

    python tests/golden_sources.py --record [GROUP ...]

Weights and inputs are small multiples of powers of two wherever spikes are counted, so that sums
are exact in any order, on any processor. What torch draws from a normal distribution is not the
same on every processor, so initial weights and what follows from them belong to the machine that
recorded them: see `PLATFORM`.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass, replace
from functools import cache, partial
from io import StringIO
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parent
FOLDER = HERE / "golden"
RESULTS = HERE.parent / "results"

TOLERANCES = {"default": 1e-6, "training": 1e-4, "gradients": 1e-4}
"""Relative, by group: float32 sums in another order, and what twenty steps make of them."""

LOOSE = {"loss": 1e-4}
"""Relative, by key: float32 throughout, of logits that cancel."""

TINY = {"default": 1e-12, "training": 1e-6, "gradients": 5e-5, "neurons": 1e-7, "batches": 1e-6}
"""Absolute, by group, for values that are the rest of larger ones which cancel."""


def differences(found: Any, wanted: Any, group: str, place: str = "") -> Iterator[str]:
    """Where a value is not the golden one: strings, whole numbers and hashes exactly, floats
    within the group's tolerance."""
    if isinstance(wanted, dict):
        if not isinstance(found, dict) or found.keys() != wanted.keys():
            keys = sorted(found) if isinstance(found, dict) else found
            yield f"{place}: keys {keys}, golden: {sorted(wanted)}"
            return
        for key, value in wanted.items():
            yield from differences(found[key], value, group, f"{place}/{key}")
    elif isinstance(wanted, list):
        if not isinstance(found, (list, tuple)) or len(found) != len(wanted):
            length = len(found) if isinstance(found, (list, tuple)) else repr(found)
            yield f"{place}: length {length}, golden: {len(wanted)}"
            return
        for index, value in enumerate(wanted):
            yield from differences(found[index], value, group, f"{place}/{index}")
    elif isinstance(wanted, float) and isinstance(found, (int, float)):
        rel = LOOSE.get(place.rsplit("/", 1)[-1]) or TOLERANCES.get(group, TOLERANCES["default"])
        close = math.isclose(found, wanted, rel_tol=rel, abs_tol=TINY.get(group, TINY["default"]))
        if not close:
            yield f"{place}: {found!r}, golden: {wanted!r}"
    elif found != wanted or isinstance(found, bool) != isinstance(wanted, bool):
        yield f"{place}: {found!r}, golden: {wanted!r}"


def plain(value: Any) -> Any:
    """As JSON has it: lists for tuples and arrays."""
    return json.loads(json.dumps(value, default=_plain, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        return value.tolist()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(type(value).__name__)


def hashed(*values: Any) -> str:
    """sha256 of the bytes of tensors, arrays, text or bytes, and of types and shapes."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, torch.Tensor):
            value = value.detach().contiguous().numpy()
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype} {list(value.shape)}".encode())
            value = np.ascontiguousarray(value).tobytes()
        digest.update(value.encode() if isinstance(value, str) else value)
    return digest.hexdigest()


def rounded(value: Any) -> Any:
    """Floats with six digits: what is hashed must not hang on the order of a sum."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


# --- networks whose sums are exact ---------------------------------------------------------------

_NUMBERS = np.random.default_rng(0)
_LATTICE = torch.from_numpy(_NUMBERS.integers(-2, 3, 65_521)).float() / 64
_GENERIC = torch.from_numpy(_NUMBERS.integers(-(2**15), 2**15, 65_521)).float() / 2**20
_SHIFTS = torch.from_numpy(_NUMBERS.integers(-1, 4, 4_093)).float() / 8


def exact_(model: nn.Module, generic: bool = False, lift: float = 0.0) -> nn.Module:
    """Weights in multiples of 1/64, batch norms whose scale is a power of two, in evaluation mode.

    generic: other weights, without ties at zero; for ReLUs, whose sums can't be exact.
    lift: added to all biases of batch norms, so that neurons fire also in the last layers."""
    numbers, gain = (_GENERIC if generic else _LATTICE), 1.0
    with torch.no_grad():
        for index, module in _numbered(model):
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
                weight = module.weight
                size = weight.numel()
                tiled = numbers.roll(37 * index).repeat(-(-size // len(numbers)))[:size]
                weight.copy_(tiled.view_as(weight))
                gain = 2.0 ** round(math.log2(64 / math.sqrt(size / len(weight))))
                if module.bias is not None:
                    module.bias.copy_(_SHIFTS.roll(index)[: len(weight)])
            elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.eps = 0.0
                module.running_mean.zero_()
                module.running_var.fill_(1)
                module.weight.fill_(gain)
                module.weight[::7] *= -1
                module.bias.copy_(_SHIFTS.roll(index)[: len(module.bias)] + lift)
    return model.eval()


def _numbered(model: nn.Module) -> Iterator[tuple[int, nn.Module]]:
    """Modules with the numbers that they had when the goldens were recorded: every neuron in the
    body of a network of ours lay in a module of its own then."""
    from multispike import MultiLevelIF
    from multispike.models.network import Network

    index = 0
    for module in model.modules():
        yield index, module
        index += 1
        if isinstance(model, Network) and isinstance(module, MultiLevelIF):
            index += module is not model.encoder


@contextmanager
def undrawn() -> Iterator[None]:
    """Without drawing initial weights, which takes longer than all else."""
    names = ("kaiming_normal_", "kaiming_uniform_", "uniform_")
    with mock.patch.multiple(nn.init, **{name: lambda t, *a, **k: t for name in names}):
        yield


def pixels(batch: int, channels: int, size: int, frames: int = 0, seed: int = 1) -> torch.Tensor:
    """uint8 images, or event frames of small counts."""
    shape = (frames, batch, channels, size, size) if frames else (batch, channels, size, size)
    numbers = np.random.default_rng(seed).integers(0, 4 if frames else 256, shape, dtype=np.uint8)
    return torch.from_numpy(numbers)


def inputs(batch: int, channels: int = 3, size: int = 8) -> torch.Tensor:
    """Float images in multiples of 1/8."""
    return torch.round((pixels(batch, channels, size).float() - 128) / 8) / 8


NEURONS = ("relu", "binary", "multilevel")
SMALL = {
    "fastnet", "vgg11",
    *(f"{name}_resnet20" for name in ("ms", "sew", "sew_and", "sew_iand", "sparse", "spiking")),
}  # fmt: skip
"""Networks whose layers are recorded one by one; of the others there are totals and a hash."""


@cache
def architectures() -> list[str]:
    from multispike import list_models

    return list_models()


# --- data ----------------------------------------------------------------------------------------


def training_loader(config: Any, cache_dir: Path | None = None, raw: bool = False) -> Any:
    """The loader that `fit` trains with; raw: its pixels as they are, whole numbers to 255."""
    from multispike.datasets import load_dataset
    from multispike.training.data import load_data, training_loader

    if cache_dir is None:
        dataset = load_data(config, config.timesteps)
    else:
        dataset = load_dataset(config.data, config.data_dir, cache_dir=cache_dir)
    channels = dataset.input_shape[0]
    mean, std = ([0.0] * channels, [1 / 255] * channels) if raw else (dataset.mean, dataset.std)
    return training_loader(config, replace(dataset, mean=mean, std=std))


def batches(loader: Any, count: int = 2) -> dict[str, Any]:
    """Hashes of the first batches of epochs 0 and 1, and of their targets."""
    found: dict[str, Any] = {"batches": len(loader)}
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        first = [batch for batch, _ in zip(loader, range(count), strict=False)]
        found[f"epoch {epoch}"] = {
            "shape": list(first[0][0].shape),
            "channels_last": first[0][0].is_contiguous(memory_format=torch.channels_last),
            "inputs": [hashed(x) for x, _ in first],
            "targets": [hashed(y) for _, y in first],
            "mean": [x.double().mean().item() for x, _ in first],
        }
    return found


AUGMENTED: dict[str, dict[str, Any]] = {
    "recipe": {},
    "moved": {"flip": "alternate", "shift": 2, "cutout": 3},
    "mixed": {"flip": "alternate", "shift": 2, "cutout": 3, "mixup": 0.5},
    "flipped": {"flip": "random", "shift": 0, "seed": 3},
}


def digits(name: str, raw: bool) -> Any:
    from multispike.config import TrainConfig

    return batches(training_loader(TrainConfig(data="digits", **AUGMENTED[name]), raw=raw))


def digits_set() -> Any:
    from multispike.datasets import load_dataset

    found = load_dataset("digits")
    return {
        "train": hashed(found.train.inputs, found.train.labels),
        "test": hashed(found.test.inputs, found.test.labels),
        "classes": found.classes, "mean": found.mean, "std": found.std,
    }  # fmt: skip


def cifar(name: str, raw: bool) -> Any:
    """A tiny CIFAR-10 as parquet, of images that are lossless in PNG."""
    from test_data_cifar import encoded, random_images, write_parquet

    from multispike.config import TrainConfig

    with TemporaryDirectory() as folder:
        names = [f"name {number}" for number in range(10)]
        for half, seed in (("train", 0), ("test", 1)):
            pictures = [encoded(image) for image in random_images(24, seed)]
            labels = [*range(10), *range(10), *range(4)]
            write_parquet(Path(folder) / f"{half}.parquet", pictures, labels, names=names)
        options = {"data_dir": folder, "batch_size": 8, **AUGMENTED[name]}
        config = TrainConfig(data="cifar10", **options)
        return batches(training_loader(config, Path(folder) / "cache", raw))


# --- initial weights -----------------------------------------------------------------------------


def platform() -> list[str]:
    """What this processor makes of the normal distribution, and the units that libraries choose
    their kernels by: where both are equal, so are weights, and what is trained from them."""
    torch.manual_seed(0)
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[-1].split("\n")[0].split()
    return [
        hashed(torch.randn(1000)),
        *sorted({f for f in flags if f[:3] in ("avx", "amx", "fma")}),
    ]


def weights(arch: str, neuron: str, **options: Any) -> Any:
    from multispike import create_model

    torch.manual_seed(0)
    state = create_model(arch, num_classes=10, neuron=neuron, **options).state_dict()
    return {
        "keys": [f"{key} {list(value.shape)} {value.dtype}" for key, value in state.items()],
        "sha256": hashed(*state.values()),
    }


# --- training ------------------------------------------------------------------------------------


def curve(neuron: str, timesteps: int, levels: int | None, **options: Any) -> Any:
    """Losses of 20 steps of fastnet on digits, as `fit` trains it."""
    from multispike.config import TrainConfig
    from multispike.training import fit, load_run

    losses: list[float] = []
    real = F.cross_entropy

    def noted(*arguments: Any, **more: Any) -> torch.Tensor:
        loss = real(*arguments, **more)
        if loss.requires_grad:
            losses.append(loss.item())
        return loss

    threads = torch.get_num_threads()
    with TemporaryDirectory() as folder, mock.patch.object(F, "cross_entropy", noted):
        settings = {"limit_train": 160, "limit_test": 60, "batch_size": 16, "epochs": 2, **options}
        config = TrainConfig(
            arch="fastnet", data="digits", neuron=neuron, timesteps=timesteps, levels=levels,
            threads=1, accelerator="cpu", out=f"{folder}/run", **settings,
        )  # fmt: skip
        fit(config)
        with open(f"{folder}/run/metrics.csv", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        run = load_run(Path(folder) / "run")
    torch.set_num_threads(threads)
    timed = ("train_seconds", "images_per_second")
    return {
        "losses": losses,
        "metrics": [{k: float(v) for k, v in row.items() if k not in timed} for row in rows],
        "weights": {
            key: value.double().abs().mean().item()
            for key, value in run.network.state_dict().items()
        },
    }


def gradients(arch: str, neuron: str, timesteps: int, **options: Any) -> Any:
    """One step in training mode: logits, gradients (their size, and how much of it is left of their
    sum), running statistics."""
    from multispike import create_model

    with undrawn():
        model = create_model(arch, num_classes=10, neuron=neuron, timesteps=timesteps, **options)
    exact_(model).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
    logits = model(inputs(4))
    F.cross_entropy(logits, torch.tensor([0, 3, 3, 9])).backward()
    return {
        "logits": logits,
        "gradients": {
            name: [size := parameter.grad.abs().sum().item(), parameter.grad.sum().item() / size]
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and parameter.grad.any()
        },
        "statistics": {
            name: [buffer.double().mean().item(), buffer.double().square().mean().item()]
            for name, buffer in model.named_buffers()
        },
    }


# --- neurons -------------------------------------------------------------------------------------

THRESHOLDS: dict[str, dict[str, Any]] = {
    "one": {},
    "three quarters": {"threshold": 0.75},
    "learned": {"threshold": 1.25, "learn_threshold": True},
    "learned per channel": {"threshold": torch.tensor([0.5, 1.0, 1.75]), "learn_threshold": True},
}
_DRIVES = np.random.default_rng(5)
DRIVE = torch.from_numpy(_DRIVES.integers(-8, 33, (4, 2, 3, 2))).float() / 16
COTANGENT = torch.from_numpy(_DRIVES.integers(-8, 9, (4, 2, 3, 2))).float() / 8


def neuron(levels: int, surrogate: str, timesteps: int, dtype: torch.dtype) -> Any:
    """Spikes and gradients, also of thresholds, over a grid of the other settings."""
    from multispike import MultiLevelIF

    found = {}
    for beta, v_init, detach, threshold in product(
        (1.0, 0.75), (0.0, 0.5), (True, False), THRESHOLDS
    ):
        layer = MultiLevelIF(
            levels, surrogate=surrogate, beta=beta, v_init=v_init, detach_reset=detach,
            timesteps=timesteps, **THRESHOLDS[threshold],
        )  # fmt: skip
        x = DRIVE[:timesteps].to(dtype).requires_grad_()
        spikes = layer(x.flatten(0, 1))
        (spikes * COTANGENT[:timesteps].flatten(0, 1).to(dtype)).sum().backward()
        step, v = layer.step(DRIVE[0].to(dtype))
        step, v = layer.step(DRIVE[1].to(dtype), v)
        assert x.grad is not None
        entry = {
            "spikes": " ".join(f"{value:.9g}" for value in spikes.flatten().tolist()),
            "dtype": f"{spikes.dtype} {x.grad.dtype} {v.dtype}",
            "gradient": x.grad.flatten(),
            "step": [step.flatten(), v.flatten()],
        }
        if isinstance(layer.threshold, nn.Parameter):
            entry["threshold"] = layer.threshold.grad
        found[f"beta {beta}, v_init {v_init}, detach {detach}, threshold {threshold}"] = entry
    return found


def barrier() -> Any:
    from multispike.neurons import barrier

    found = {}
    for levels in (1, 4):
        x = (DRIVE * 4).round().div(levels).requires_grad_()
        spikes = barrier(levels, timesteps=len(x))(x)
        (spikes * COTANGENT).sum().backward()
        found[str(levels)] = [spikes.flatten(), x.grad.flatten()]  # pyright: ignore[reportOptionalMemberAccess]
    return found


# --- activity and energy -------------------------------------------------------------------------

PROFILES = ("lemaire2022", "castagnetti2025")


def measured(
    model: nn.Module, *samples: torch.Tensor, whole: bool, labels: int = 0, searched: bool = True
) -> Any:
    """Activity of a network, and what it costs under two profiles.

    whole: every layer, not totals and a hash; searched: also the densities of the crossover."""
    from multispike.activity import record_activity
    from multispike.energy.twins import price_run

    loader = [(x, torch.arange(labels or len(x)) % 3) for x in samples]
    activity = record_activity(model, loader, confusion=True, potentials=True, errors=True)
    recorded = plain(activity.to_dict())
    priced = {}
    for profile in PROFILES:
        prices = price_run(
            activity.records, profile, spiking=activity.spiking, not_counted=activity.not_counted
        )
        prices = replace(prices, executions=None)  # new; group "energy" has them
        if not (searched and not priced) and prices.crossover:  # the search took long
            prices = replace(prices, crossover={})
        priced[profile] = plain(prices.to_json())
    layers = {
        name: [
            {key: layer[key] for key in ("name", "energy_nj", "counts", "memories")}
            for layer in one.pop("layers")
        ]
        for name, one in priced.items()
    }
    for one in priced.values():  # the same in every case; there is one of its own
        one["assumptions"].pop("profile", None)
        one["assumptions"].pop("choices", None)
        one["assumptions"].pop("not_modelled", None)
    loss = recorded.pop("loss")
    found = {"loss": loss, "prices": priced}
    if whole:
        first = {name: layers[name] for name in PROFILES[:1]}
        return {**found, "activity": recorded, "layers": first}
    totals = {key: recorded.pop(key) for key in ("samples", "accuracy", "not_counted")}
    for key in ("events_per_inference", "amplitude_per_inference", "density"):
        totals[key] = recorded[key]
    names = [layer["name"] for layer in recorded["layers"]]
    text = json.dumps(rounded([recorded, layers]), sort_keys=True)
    return {**found, "activity": totals, "names": names, "sha256": hashed(text)}


def ours(arch: str, neuron: str, timesteps: int, **options: Any) -> Any:
    from multispike import create_model

    with undrawn():
        model = create_model(arch, num_classes=10, neuron=neuron, timesteps=timesteps, **options)
    lift = 1.0 if "_and_" in arch else 0.25 if neuron == "binary" else 0.0
    exact_(model, generic=neuron == "relu", lift=lift)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("threshold") and parameter.dim():
                parameter[::2] *= 0.5
    whole = arch in SMALL
    x = inputs(4 if whole else 2, size=8 if whole else 4)
    searched = whole or not rare(f"totals/{arch} {neuron} T{timesteps}")
    return measured(model, x, whole=whole, searched=searched)


def frames(arch: str, levels: int) -> Any:
    """Event frames into a network of ours."""
    from multispike import create_model

    with undrawn():
        model = create_model(arch, in_channels=2, levels=levels, timesteps=2)
    return measured(exact_(model), pixels(4, 2, 8, 2).float(), whole=True, labels=4)


FOREIGN: dict[str, Callable[[Any, Any], tuple[nn.Module, torch.Tensor]]] = {
    "plain resnet": lambda f, n: (f.PlainResNet(), inputs(4)),
    "plain vgg": lambda f, n: (f.PlainVgg(), inputs(4)),
    "step neurons": lambda f, n: (f.StepModel(), inputs(4)),
    "hidden state 1": lambda f, n: (f.hidden_state(1), inputs(8).view(2, 4, 3, 8, 8)),
    "hidden state 3": lambda f, n: (f.hidden_state(3), inputs(8).view(2, 4, 3, 8, 8)),
    "inline": lambda f, n: (f.Inline(), inputs(4)),
    "uncounted": lambda f, n: (f.Uncounted(), inputs(4)),
    "tokens": lambda f, n: (f.Tokens(), inputs(4)),
    "direct, time first": lambda f, n: (f.Direct(n, True), inputs(4)),
    "direct, time second": lambda f, n: (f.Direct(n, False), inputs(4)),
    "stepped": lambda f, n: (f.Stepped(n), inputs(4)),
    "event frames, samples first": lambda f, n: (
        f.Transposed(n),
        pixels(2, 3, 8, 4).float().transpose(0, 1)[:, :2].repeat(2, 1, 1, 1, 1),
    ),
}


def foreign(name: str) -> Any:
    import golden_foreign

    from multispike import MultiLevelIF

    model, x = FOREIGN[name](golden_foreign, MultiLevelIF)
    first = x.dim() == 5 and "samples first" not in name
    halves = x.split(len(x) // 2 or 1) if x.dim() == 4 else (x,)
    labels = x.shape[1] if first else len(halves[0])
    return measured(exact_(model), *halves, whole=True, labels=labels)


def records() -> dict[str, Any]:
    """Layers written out by hand, one of each kind."""
    from layers import LINEAR, layer

    from multispike.layer_record import Stream

    return {
        "linear": LINEAR,
        "conv": layer(
            "conv", (2, 5, 5), (4, 3, 3), square=(3, 2, 1), bias=True, timesteps=2, levels=(3, 3),
            neuron=True, leak=True, read=(2, 4), taps=(5, 13), sent=(6, 9), max_level=2,
        ),
        "stem": layer(
            "conv", (2, 5, 5), (4, 3, 3), square=(3, 2, 1), bias=True, levels=(0, 3),
            timesteps_out=2, neuron=True, read=(40, 0), taps=(100, 0), sent=(6, 9),
        ),
        "groups": layer(
            "conv", (4, 6, 6), (8, 6, 6), square=(3, 1, 1), groups=2, timesteps=4, levels=(1, 1),
            neuron=True, read=(20, 20), taps=(150, 150), sent=(31, 31), active=15,
        ),
        "add": layer(
            "add", (2, 2, 2), (2, 2, 2), timesteps=3, levels=(4, 4), neuron=True, read=(5, 8),
            sent=(6, 9), shortcut=Stream(4, 7, 7),
        ),
        "dense add": layer("add", (2, 2, 2), (2, 2, 2), read=(8, 0), shortcut="dense"),
        "add in place": layer(
            "add", (2, 2, 2), (2, 2, 2), read=(8, 0), levels=(0, 2), sent=(3, 4), neuron=True
        ),
        "pool": layer(
            "pool", (2, 4, 4), (2, 2, 2), square=(2, 2, 0), timesteps=3, levels=(4, 4),
            read=(9, 12), sent=(5, 8),
        ),
        "dense pool": layer("pool", (2, 4, 4), (2, 2, 2), square=(2, 2, 0), read=(30, 0)),
    }  # fmt: skip


FANOUTS, GRADED = ("lemaire", "exact"), ("mac", "repeat", "unroll", "bits")
NETWORKS = ("snn", "ann", "ann_stepwise", "qann", "qann_skip")


def by_hand(bits: int) -> Any:
    from multispike.energy.count import count_layer, synops
    from multispike.energy.pricing import price_layers
    from multispike.energy.profiles import list_profiles

    found: dict[str, Any] = {}
    for name, record in records().items():
        rows: dict[str, Any] = {"record": record.entry(), "synops": synops([record])}
        for fanout, graded, network in product(FANOUTS, GRADED, NETWORKS):
            options = {"fanout": fanout, "graded_op": graded, "network": network}
            reports = {p: price_layers([record], p, bits, **options) for p in list_profiles()}
            rows[" ".join(options.values())] = {
                "counts": vars(count_layer(record, **options)),
                **{p: one.layers[0].energy_nj.to_dict() for p, one in reports.items()},
            }
        found[name] = rows
    return found


def constants() -> Any:
    """Profiles with their sources, the assumptions of a report, and the crossover of hand-made
    layers."""
    from multispike.energy.pricing import price_layers
    from multispike.energy.profiles import get_profile, list_profiles
    from multispike.energy.twins import crossover_density, even_density, price_twins

    some = [records()[name] for name in ("stem", "conv", "add", "pool", "linear")]
    report = price_layers(some).to_json()
    for entry in report["layers"]:
        del entry["record"]  # whole records are new
    return {
        "profiles": {name: get_profile(name).to_dict() for name in list_profiles()},
        "report": report,
        "text": repr(price_layers(some)),
        "others": {
            f"{profile} {bits}": {
                "baselines": {k: v.total_nj for k, v in price_twins(some, profile, bits).items()},
                "crossover": {
                    k: v.to_dict() for k, v in crossover_density(some, profile, bits).items()
                },
                "even": even_density(some, profile, bits),
            }
            for profile in list_profiles()
            for bits in (8, 16, 32)
        },
    }


# --- deployment ----------------------------------------------------------------------------------

QUANTISED = [
    ("vgg11", "multilevel", 1), ("vgg11", "binary", 2), ("sparse_resnet20", "multilevel", 1),
    ("sparse_resnet20", "binary", 2), ("ms_resnet20", "multilevel", 1),
    ("ms_resnet20", "binary", 2), ("sew_resnet20", "multilevel", 1), ("sew_resnet20", "binary", 2),
    ("spiking_resnet20", "multilevel", 2), ("sew_and_resnet20", "binary", 1),
    ("fastnet", "multilevel", 1),
]  # fmt: skip


@cache
def integer_network(arch: str, neuron: str, timesteps: int, events: bool = False) -> Any:
    """An untrained network as integers; VGG-11 and fastnet in widths that are written at once."""
    from multispike import create_model
    from multispike.export.quantise import quantise
    from multispike.models.table import ARCHITECTURES, Vgg

    thin = {
        "vgg11": Vgg((8, "M", 16, "M", 16, 24, "M", 24, 32)),
        "fastnet": Vgg((6, 8, "P", 8, 12, "P", 12), dirac=True),
    }
    channels = 2 if events else 1
    with undrawn(), mock.patch.dict(ARCHITECTURES, thin):
        model = create_model(
            arch, in_channels=channels, num_classes=10, neuron=neuron, timesteps=timesteps,
            v_init=0.5, learn_threshold="channel", threshold=1.0,
        )  # fmt: skip
    exact_(model, lift=0.25 if neuron == "binary" else 0.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("threshold"):
                parameter[::2] *= 0.75
    mean, std = [0.25] * channels, [0.5] * channels
    return quantise(model, mean, std, (channels, 8, 8), events=events)


@cache
def committed() -> Any:
    from multispike.export.serialize import load

    (path,) = sorted((RESULTS / "checkpoints").glob("table-cifar10-*.npz"))
    return load(path)


def logits(network: Any) -> Any:
    """Logits, bounds and counts of four fixed images."""
    from multispike.export.network import count

    channels, size, _ = network.input_shape
    images = pixels(4, channels, size, network.timesteps if network.events else 0, seed=2)
    counted = {"synapses": {}, "neurons": {}}
    fields = {
        kind: ("events", "amplitude", last)
        for kind, last in zip(counted, ("synops", "updates"), strict=True)
    }
    for (kind, name), values in count(network, images).items():
        counted[kind][name] = dict(zip(fields[kind], values.tolist(), strict=True))
    return {
        "logits": network.forward(images),
        "scale": network.logit_scale,
        "bounds": network.bounds,
        "layers": [f"{type(layer).__name__} {layer.name}" for layer in network.layers],
        "counts": counted,
    }


def c_files(network: Any) -> Any:
    from multispike.export.c import export_c

    with TemporaryDirectory() as folder:
        program = export_c(network, Path(folder) / "c")
        files = sorted((Path(folder) / "c").iterdir())
        hashes = {path.name: hashed(path.read_bytes()) for path in files}
    return {"files": hashes, "flash": program.flash}


def onnx_graph(network: Any) -> Any:
    from onnx import numpy_helper

    from multispike.export.onnx import build

    graph = build(network).graph
    return {
        "nodes": [
            f"{node.op_type} {node.name}: {', '.join(node.input)} -> {', '.join(node.output)}"
            + "".join(sorted(f" {each.name}={_attribute(each)}" for each in node.attribute))
            for node in graph.node
        ],
        "initialisers": {
            one.name: hashed(numpy_helper.to_array(one))[:16] for one in graph.initializer
        },
    }


def _attribute(attribute: Any) -> Any:
    from onnx import helper

    return helper.get_attribute_value(attribute)


def nir(network: Any) -> Any:
    from multispike.export.nir import nir_graph

    graph = nir_graph(network)
    return {
        "nodes": {
            name: {
                "type": type(node).__name__,
                **{
                    key: hashed(value)[:16] if isinstance(value, np.ndarray) else repr(value)
                    for key, value in sorted(vars(node).items())
                    if isinstance(value, (np.ndarray, int, float, str))
                },
            }
            for name, node in graph.nodes.items()
        },
        "edges": [list(edge) for edge in graph.edges],
    }


def stored(network: Any) -> Any:
    """The arrays of the saved file, and its description."""
    from multispike.export.serialize import save

    with TemporaryDirectory() as folder:
        save(network, Path(folder) / "network.npz")
        with np.load(Path(folder) / "network.npz") as archive:
            return {name: hashed(archive[name])[:16] for name in archive.files}


# --- report --------------------------------------------------------------------------------------


def figure(value: Any) -> Any:
    """A plot's JSON, with plotly's packed arrays as lists; without the theme, which is style."""
    import base64

    if isinstance(value, dict) and {"bdata", "dtype"} <= value.keys():
        array = np.frombuffer(base64.b64decode(value["bdata"]), np.dtype(value["dtype"]))
        shape = [int(size) for size in str(value.get("shape", array.size)).split(",")]
        return array.reshape(shape).tolist()
    if isinstance(value, dict):
        return {key: figure(item) for key, item in value.items() if key != "template"}
    return [figure(item) for item in value] if isinstance(value, list) else value


def results_of(file: str) -> list[dict[str, Any]]:
    runs = json.loads((RESULTS / file).read_text(encoding="utf-8"))["runs"]
    return runs if file == "demo.json" else [run for run in runs if run["name"].startswith("s")][:4]


def typed_results(file: str) -> Any:
    from multispike.results import read_runs

    runs = read_runs(RESULTS / file)
    return runs if file == "demo.json" else [run for run in runs if run.name.startswith("s")][:4]


def report(file: str) -> Any:
    """The sections of these results' page, with settings and histories made up."""
    import yaml

    from multispike.config import TrainConfig, parse_variant
    from multispike.files import write_json
    from multispike.report.comparison import read_comparison
    from multispike.report.page import SECTIONS
    from multispike.results import FORMAT

    with TemporaryDirectory() as out:
        folder = Path(out)
        runs = results_of(file)
        write_json(folder / "results.json", {"format": FORMAT, "runs": runs})
        for index, run in enumerate(runs):
            place = folder / run["name"]
            place.mkdir()
            variant = run["name"].split("-", 1)[1] if "families" in file else run["name"]
            settings = TrainConfig(data=run["data"], arch=run["arch"], **parse_variant(variant))
            text = yaml.safe_dump(asdict(settings.resolved()), sort_keys=False)
            (place / "config.yaml").write_text(text, encoding="utf-8")
            rows = ["epoch,step,train_loss,train_accuracy,test_loss,test_accuracy,lr"]
            for epoch in range(1, 4):
                share = epoch / (4 + index)
                rows.append(f"{epoch},{20 * epoch},{1 - share},{share},{1.5 - share},{share},0.1")
            (place / "metrics.csv").write_text("\n".join([*rows, ""]), encoding="utf-8")
        data = read_comparison(folder)
    sections = [section for build in SECTIONS if (section := build(data))]
    return {section.title: shown(section) for section in sections}


def shown(section: Any) -> Any:
    """Texts, tables and plots of a section."""

    def cells(table: Any) -> Any:
        titles = [column.title for column in table.columns]
        return [table.caption, titles, *([text for text, _ in row] for row in table.cells())]

    return {
        "texts": [*section.paragraphs, *section.points, *map(vars, section.cards)],
        "legend": [vars(key) for key in section.legend],
        "tables": [cells(table) for table in section.tables],
        "plots": [
            [plot.title, plot.summary, cells(plot.table)]
            + [[name, figure(json.loads(one.to_json()))] for name, one in plot.panels.items()]
            for plot in section.plots
        ],
    }


def printed(*tables: Any) -> list[str]:
    from rich.console import Console

    stream = StringIO()
    console = Console(file=stream, width=100, color_system=None, legacy_windows=False)
    for table in tables:
        console.print(table)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def terminal() -> Any:
    from multispike.report.terminal import comparison_table

    return {
        file: printed(comparison_table(typed_results(file)))
        for file in ("demo.json", "families.json")
    }


def energy_terminal() -> Any:
    from multispike.report.terminal import energy_notes, energy_table, twins_table

    found = {}
    for file in ("demo.json", "families.json"):
        for run in typed_results(file):
            tables = [energy_table(run, run.name)]
            if run.baselines:
                tables.append(twins_table(run))
            events = f"measured on {run.data} (n = {run.samples:,})"
            found[run.name] = [*printed(*tables), *energy_notes(run, run.name, events)]
    return found


# --- the table of all cases ----------------------------------------------------------------------

PLATFORM = {"weights", "training", "batches"}
"""Groups that are not the same on every processor, since torch's normal distribution is not, nor a
product that is added in one rounding or in two: where the recorded "weights/platform" differs from
this machine's, they say nothing. Of batches the group "data" has the pixels, which always hold."""


def _cases() -> dict[str, Callable[[], Any]]:
    cases: dict[str, Callable[[], Any]] = {"weights/platform": platform}
    for name in AUGMENTED:
        for group, raw in (("batches", False), ("data", True)):
            if not raw or name != "mixed":  # whose sums are not exact
                cases[f"{group}/digits {name}"] = partial(digits, name, raw)
                cases[f"{group}/cifar {name}"] = partial(cifar, name, raw)
    cases["data/digits"] = digits_set
    for arch in architectures():
        for kind in NEURONS:
            cases[f"weights/{arch} {kind}"] = partial(weights, arch, kind)
            group = "activity" if arch in SMALL else "totals"
            for t in (1, 2):
                cases[f"{group}/{arch} {kind} T{t}"] = partial(ours, arch, kind, t)
    cases["weights/fastnet learned"] = partial(
        weights, "fastnet", "multilevel", learn_threshold="channel", stem="imagenet"
    )
    cases["weights/vgg11 mlp"] = partial(weights, "vgg11", "multilevel", classifier="mlp")
    for arch in ("fastnet", "sew_resnet20", "sparse_resnet20"):
        for learn in ("layer", "channel"):
            options = {"learn_threshold": learn, "levels": 2, "stem": "imagenet"}
            key = f"activity/{arch} {learn} imagenet"
            cases[key] = partial(ours, arch, "multilevel", 2, **options)
        cases[f"activity/{arch} frames"] = partial(frames, arch, 2)
    for name in FOREIGN:
        cases[f"foreign/{name}"] = partial(foreign, name)
    for bits in (8, 16, 32):
        cases[f"energy/by hand {bits} bits"] = partial(by_hand, bits)
    cases["energy/constants"] = constants
    cases["training/T1 N4"] = partial(curve, "multilevel", 1, 4)
    cases["training/T4 N1"] = partial(curve, "binary", 4, None)
    cases["training/ann"] = partial(curve, "relu", 1, None)
    extras = {"activity_penalty": 0.5, "learn_threshold": "channel", "ema": 0.5, "whiten": True}
    cases["training/T2 N2 extras"] = partial(
        curve, "multilevel", 2, 2, **extras, optimizer="adamw", mixup=0.5, cutout=2
    )
    for arch in ("fastnet", "vgg11", "sew_resnet20", "ms_resnet20", "sparse_resnet20"):
        for kind, t in (("relu", 1), ("binary", 2), ("multilevel", 1), ("multilevel", 2)):
            cases[f"gradients/{arch} {kind} T{t}"] = partial(gradients, arch, kind, t)
    cases["gradients/fastnet learned"] = partial(
        gradients, "fastnet", "multilevel", 2, learn_threshold="channel", surrogate="clip"
    )
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    for n, surrogate, t, dtype in product((1, 4), ("sigmoid", "ste", "clip"), (1, 4), dtypes):
        key = f"neurons/N{n} {surrogate} T{t} {dtype}"
        cases[key] = partial(neuron, n, surrogate, t, dtypes[dtype])
    cases["neurons/barrier"] = barrier
    networks = {"committed": committed}
    for arch, kind, t in QUANTISED:
        networks[f"{arch} {kind} T{t}"] = partial(integer_network, arch, kind, t)
    networks["sparse_resnet20 frames T2"] = partial(
        integer_network, "sparse_resnet20", "multilevel", 2, True
    )
    outputs = {"logits": logits, "c": c_files, "onnx": onnx_graph, "nir": nir, "npz": stored}
    for (name, network), (output, written) in product(networks.items(), outputs.items()):
        cases[f"deploy/{name} {output}"] = partial(_of, written, network)
    for file in ("demo.json", "families.json"):
        cases[f"report/page of {file}"] = partial(report, file)
    cases["report/terminal"] = terminal
    cases["report/terminal energy"] = energy_terminal
    return cases


def _of(written: Callable[[Any], Any], network: Callable[[], Any]) -> Any:
    """What is written of a network; or why it can't be."""
    from multispike.errors import InputError

    try:
        return written(network())
    except InputError as error:
        return f"refused: {error}"


CASES = _cases()


def rare(case: str) -> bool:
    """Whether a case runs on request only: large networks, of whose kind others run."""
    group, name = case.split("/", 1)
    arch, _, variant = name.partition(" ")
    if group == "weights" and arch.endswith(("18", "34")):
        return variant != "multilevel"
    usual = ("multilevel T1", "multilevel T2", "binary T2", "relu T1")
    if group == "totals":
        return variant not in {"vgg16": usual}.get(arch, usual[:1] if "18" in arch else usual[2:3])
    if group == "activity" and variant.startswith(NEURONS):
        return variant not in (usual[::2] if "and_" in arch else usual)
    return False


def file_of(group: str) -> Path:
    return FOLDER / f"{group}.json.gz"


@cache
def golden(group: str) -> dict[str, Any]:
    """Case -> recorded value."""
    return json.loads(gzip.decompress(file_of(group).read_bytes()))


def record(groups: list[str]) -> None:
    """Write the files of these groups anew; of all, if there are none."""
    torch.set_num_threads(1)
    values: dict[str, dict[str, Any]] = {}
    for name, compute in CASES.items():
        group, case = name.split("/", 1)
        if not groups or group in groups:
            values.setdefault(group, {})[case] = plain(compute())
    FOLDER.mkdir(exist_ok=True)
    for group, content in values.items():
        text = json.dumps(content, separators=(",", ":"), sort_keys=True)
        file_of(group).write_bytes(gzip.compress(text.encode(), mtime=0))
        print(f"{group}: {len(content)} cases, {file_of(group).stat().st_size:,} bytes")


if __name__ == "__main__":
    if "--record" not in sys.argv[1:]:
        sys.exit(f"usage: {sys.argv[0]} --record [GROUP ...]")
    record([each for each in sys.argv[1:] if each != "--record"])
