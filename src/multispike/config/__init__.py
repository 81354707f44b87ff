"""Settings of the commands as typed dataclasses: here of a training, in `commands` of the others.

Torch-free, so that bad usage answers at once; and no module here may have a TYPE_CHECKING block,
since jsonargparse imports what stands in it. The first line of a class is its command's help.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from multispike.config.types import (
    Accelerator,
    BatchSize,
    BelowOne,
    Count,
    Natural,
    NonNegative,
    Positive,
    Seed,
    Seeds,
    Sensor,
    Settings,
    Share,
    Threads,
    Where,
    parse_seeds,
    split_names,
)
from multispike.datasets import DATASETS
from multispike.errors import invalid, unknown
from multispike.files import read_yaml
from multispike.models import DEFAULT_LEVELS
from multispike.models.table import ARCHITECTURES
from multispike.plugins import absolute, check_name, check_there, label
from multispike.pretrained import find

OF_DATA = ("size", "by", "bins", "split", "sensor", "background", "skip_damaged", "test_share")
"""Settings that some data sets take, see `multispike.datasets.Source.options`."""

ArchName = Annotated[str, lambda field, name: check_name(field, name, ARCHITECTURES)]


@dataclass(frozen=True)
class Recipe(Settings):
    """Everything that decides what a training computes, but for the neuron.

    Args:
        arch: Architecture, see `multispike models`; or your own: FILE.py:FUNCTION, or
            MODULE:FUNCTION, of build(num_classes, in_channels).
        stem: First layer: cifar (3x3) or imagenet (7x7, stride 2, max-pool).
        classifier: linear, or mlp (VGGs only, two hidden layers of 512).
        data: digits, fashion_mnist, cifar10, cifar100, imagefolder, cifar10dvs, dvsgesture, nmnist,
            eventfolder; NAME-dvs-sim emulates a camera before images. Or your own:
            FILE.py:FUNCTION, or MODULE:FUNCTION, of load(request).
        data_dir: Folder with the data; not needed for digits.
        download: Fetch the official archive into data_dir if it is not there.
        size: Side in pixels to which an image folder or event set is brought.
        by: Bins of event frames, of equal time or with equally many events (count).
        bins: Time bins of an event set as channels of one frame: each adds one of OFF and one of
            ON events; timesteps divide time further.
        split: Of cifar10dvs, which has none of its own: fixed, tebn, tet or sew; fixed by default.
        sensor: WIDTHxHEIGHT in pixels of an eventfolder's recordings that don't tell it.
        background: Colour behind what is transparent in an imagefolder; white by default.
        skip_damaged: Leave out files of an imagefolder or eventfolder that can't be read.
        test_share: Share of each class that is the test, in a folder of files without a test.
        val_share: Share of the training samples that chooses best.ckpt in place of the test; by
            default 0.1 of an imagefolder or eventfolder, unless it has a val folder beside test.
        limit_train: Use this many training samples only.
        limit_test: Use this many test samples only.
        epochs: Passes over the training images.
        patience: Stop after this many epochs without a better accuracy on the validation split, or
            on the test where there is none.
        batch_size: Images a step; by default a 20th of the training set, between 32 and 250.
        accumulate: Batches whose gradients are added up, as their mean, for one step.
        optimizer: sgd (Nesterov momentum), adamw, or muon: orthogonal updates of convolutions but
            the first, and sgd at its default learning rate for all other parameters.
        lr: Peak learning rate; by default 0.2 (sgd), 0.002 (adamw) or 0.05 (muon) a batch of 250
            (of all batches that make a step).
        momentum: Nesterov momentum of sgd.
        weight_decay: For convolution and linear weights only.
        bias_lr: Factor on the learning rate of BN biases.
        schedule: onecycle (up and down in straight lines) or cosine (both along a cosine).
        warmup: Share of the training in which the learning rate rises.
        label_smoothing: Probability spread over all classes.
        clip_norm: Largest norm of all gradients together; longer ones are scaled down to it.
        ema: Decay of an average of the weights, which is then what is evaluated; 0 is off.
        activity_penalty: Weight of the mean events per neuron in the loss; 0 is off.
        whiten: Start the stem from the training images' principal patches (both signs).
        init: Start from the weights of this run or checkpoint, of any neuron, N and T; where the
            classes differ, the last layer starts anew.
        seed: Of the weights, the order and the augmentation.
        flip: Mirror half of the images at random; "alternate": each one every other epoch.
        shift: Largest shift in pixels, with reflection at the border.
        cutout: Side of a square that is blanked; 0 is off.
        mixup: Alpha of mixup; 0 is off.
        drop: Share of an event set's events that is lost at random; 0 is off.
        threshold: V_th of every neuron; inputs are batch-normalised, so few saturate at 2.
        surrogate: Gradient of the spike: sigmoid, ste (straight-through in [0, V_th]) or clip (if
            the level is not clipped); by default sigmoid for binary neurons, clip for others.
        alpha: Steepness of the sigmoid gradient.
        v_init: Potential at the start, in levels; 0.5 rounds instead of cutting off.
        beta: Leak: share of the potential left after a step; 1 is none.
        learn_threshold: Learn V_th: no, one a layer, or one a channel.
        precision: 32-true, or bf16-mixed (fast on CPUs and GPUs with bfloat16 units); 16-mixed for
            GPUs that have none.
        compile: Compile the network with torch.compile.
        channels_last: Keep images as NHWC, which is faster on most CPUs and GPUs.
        devices: Number of devices or processes, or auto.
        strategy: auto, or ddp for several processes.
        num_nodes: Machines that take part in the training.
        threads: CPU threads of a process; by default all cores shared among the processes.
        checkpoint_seconds: Save last.ckpt this often within an epoch.
        logger: Where each epoch's row of metrics.csv goes besides: tensorboard, wandb or mlflow
            (./mlruns); csv is that file alone.
    """

    sections: ClassVar = {
        "arch": "network", "data": "data", "epochs": "optimisation", "flip": "augmentation",
        "threshold": "neuron", "neuron": "neuron", "variants": "neuron", "seeds": "optimisation",
        "precision": "hardware", "logger": "output", "name": "output", "out": "output",
    }  # fmt: skip

    arch: ArchName = "fastnet"
    stem: Literal["cifar", "imagenet"] = "cifar"
    classifier: Literal["linear", "mlp"] = "linear"
    data: str = "digits"
    data_dir: str | None = None
    download: bool = False
    size: Count | None = None
    by: Literal["time", "count"] | None = None
    bins: Count | None = None
    split: str | None = None
    sensor: Sensor | None = None
    background: str | None = None
    skip_damaged: bool = False
    test_share: Annotated[float, Where("a share in (0, 1)", lambda x: 0 < x < 1)] | None = None
    val_share: Share | None = None
    limit_train: Count | None = None
    limit_test: Count | None = None
    epochs: Count = 30
    patience: Count | None = None
    batch_size: BatchSize | None = None
    accumulate: Count = 1
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    lr: Positive | None = None
    momentum: BelowOne = 0.9
    weight_decay: NonNegative = 5e-4
    bias_lr: Positive = 1.0
    schedule: Literal["onecycle", "cosine"] = "onecycle"
    warmup: Share = 0.2
    label_smoothing: BelowOne = 0.1
    clip_norm: Positive | None = None
    ema: BelowOne = 0.0
    activity_penalty: NonNegative = 0.0
    whiten: bool = False
    init: str | None = None
    seed: Seed = 0
    flip: Literal["none", "random", "alternate"] | None = None
    shift: Natural | None = None
    cutout: Natural = 0
    mixup: NonNegative = 0.0
    drop: Share = 0.0
    threshold: Positive = 2.0
    surrogate: Literal["sigmoid", "ste", "clip"] | None = None
    alpha: Positive = 5.0
    v_init: Annotated[float, Where("a number of levels in [0, 1)", lambda v: 0 <= v < 1)] = 0.5
    beta: Annotated[float, Where("a number in (0, 1]", lambda x: 0 < x <= 1)] = 1.0
    learn_threshold: Literal["no", "layer", "channel"] = "no"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    compile: bool = False
    channels_last: bool = True
    accelerator: Accelerator = "auto"
    devices: Count | Literal["auto"] = 1
    strategy: str = "auto"
    num_nodes: Count = 1
    threads: Threads | None = None
    checkpoint_seconds: NonNegative = 60.0
    logger: Literal["tensorboard", "csv", "wandb", "mlflow"] = "tensorboard"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("arch", "data"):  # a run is read from other folders too
            object.__setattr__(self, name, absolute(getattr(self, name)))

    def check(self) -> None:
        super().check()
        check_name("data", self.data, DATASETS)
        for name in ("arch", "data"):
            check_there(name, getattr(self, name))
        if self.data_dir and not self.download and not Path(self.data_dir).expanduser().exists():
            raise invalid("data_dir", self.data_dir, "a folder or archive that exists")
        if self.logger in ("wandb", "mlflow") and find_spec(self.logger) is None:
            raise invalid("logger", self.logger, f"one that is here: pip install {self.logger}")
        if self.data not in DATASETS:
            return
        for name in OF_DATA:
            value = getattr(self, name)
            if value not in (None, False) and name not in DATASETS[self.data].options:
                sets = [key for key, source in DATASETS.items() if name in source.options]
                raise invalid(name, value, f"a {name} with data={' or '.join(sets)} only")
        if self.drop and not DATASETS[self.data].events:
            raise invalid("drop", self.drop, f"0 with {self.data}, which holds no events")


@dataclass(frozen=True)
class TrainConfig(Recipe):
    """One run: a recipe and a neuron.

    Args:
        neuron: relu (the ANN), binary (levels 1) or multilevel.
        levels: N, the largest level of a spike; 4 for multilevel unless given.
        timesteps: T.
        name: Name of the run in tables; by default from neuron, T and N.
        out: Folder of the run, or of several seeds' runs, NAME-sSEED, and their report; by default
            runs/DATA-ARCH-NAME.
        resume: Go on with the run in that folder.
        overwrite: Delete the run in that folder and start anew.
    """

    neuron: Literal["relu", "binary", "multilevel"] = "multilevel"
    levels: Count | None = None
    timesteps: Count = 1
    name: str | None = None
    out: str | None = None
    resume: bool = False
    overwrite: bool = False

    def check(self) -> None:
        super().check()
        if self.neuron == "binary" and self.levels not in (None, 1):
            raise invalid("levels", self.levels, "1 with neuron=binary")
        if self.neuron == "relu" and self.levels is not None:
            raise invalid("levels", self.levels, "none with neuron=relu")
        if self.resume and self.overwrite:
            raise invalid("overwrite", True, "one of --resume and --overwrite, not both")
        begun = Path(self.folder, "last.ckpt").exists()
        if self.init and not find(self.init).exists() and not begun:
            raise invalid("init", self.init, "a run folder or a .ckpt file")

    @property
    def variant(self) -> str:
        """Name of the run, e.g. multilevel-T1-N4.

        >>> TrainConfig(neuron="binary", timesteps=4).variant
        'binary-T4'
        """
        if self.name:
            return self.name
        own = self.arch not in ARCHITECTURES and self.neuron == "multilevel" and not self.levels
        if own or self.neuron == "relu":
            kind = "own" if own else "ann"
            return kind if self.timesteps == 1 else f"{kind}-T{self.timesteps}"
        if self.neuron == "binary":
            return f"binary-T{self.timesteps}"
        return f"multilevel-T{self.timesteps}-N{self.resolved().levels}"

    @property
    def folder(self) -> str:
        """Where the run goes."""
        return self.out or f"runs/{label(self.data)}-{label(self.arch)}-{self.variant}"

    def resolved(self) -> TrainConfig:
        """The same settings, those filled in that the neuron decides.

        >>> [(c.resolved().levels, c.resolved().surrogate)
        ...  for c in (TrainConfig(), TrainConfig(neuron="binary"))]
        [(4, 'clip'), (1, 'sigmoid')]
        """
        binary = self.neuron == "binary" or self.levels == 1
        surrogate = self.surrogate or ("sigmoid" if binary else "clip")
        levels = None if self.neuron == "relu" else self.levels
        if self.arch in ARCHITECTURES:
            levels = levels or DEFAULT_LEVELS[self.neuron] or None
        return replace(self, levels=levels, surrogate=surrogate)


def seeded(run: TrainConfig, seeds: Sequence[int], folder: str) -> list[TrainConfig]:
    """A run with each of several seeds, in FOLDER/NAME-sSEED; of one seed it is as it was."""
    if len(seeds) < 2:
        return [replace(run, seed=seed) for seed in seeds] or [run]
    names = {seed: f"{run.variant}-s{seed}" for seed in seeds}
    return [replace(run, seed=s, name=name, out=f"{folder}/{name}") for s, name in names.items()]


_VARIANT = re.compile(r"(ann|binary|multilevel)(?:-T([1-9]\d*))?(?:-N([1-9]\d*))?")


def parse_variant(text: str) -> dict[str, Any]:
    """The neuron, levels and timesteps that a variant's name stands for.

    >>> parse_variant("multilevel-T1-N8")
    {'neuron': 'multilevel', 'timesteps': 1, 'levels': 8}
    >>> parse_variant("ann")
    {'neuron': 'relu', 'timesteps': 1, 'levels': None}

    Raises:
        InputError: for a name that is not of the form KIND[-T#][-N#].
    """
    match = _VARIANT.fullmatch(text)
    kind, timesteps, levels = match.groups() if match else ("", None, None)
    if not match or (levels and kind != "multilevel"):
        raise invalid("variants", text, "ann, ann-T#, binary-T#, multilevel-T#-N# with # >= 1")
    return {
        "neuron": "relu" if kind == "ann" else kind,
        "timesteps": int(timesteps or 1),
        "levels": int(levels) if levels else None,
    }


@dataclass(frozen=True)
class CompareConfig(Recipe):
    """Train several neurons under one recipe and compare them.

    Args:
        variants: Comma-separated, e.g. ann,binary-T4,multilevel-T1-N4.
        out: Folder of the comparison; by default runs/compare-DATA-ARCH.
        overwrite: Train variants anew that are finished.

    Examples:
        multispike compare --arch fastnet --data digits --epochs 10 --out DIR
        multispike compare --data cifar10 --data-dir DIR --variants ann,multilevel-T1-N4
        multispike compare --data digits --epochs 10 --seeds 0,1,2 --out DIR
    """

    variants: str = "ann,binary-T4,multilevel-T1-N4"
    seeds: Seeds | None = None
    out: str | None = None
    overwrite: bool = False

    @property
    def folder(self) -> str:
        """Where the comparison goes."""
        return self.out or f"runs/compare-{label(self.data)}-{label(self.arch)}"

    def runs(self) -> list[TrainConfig]:
        """One run a variant, in the order given, and then with the next seed; a finished or begun
        one is resumed."""
        names = split_names(self.variants)
        if not names or len(names) < sum(bool(name.strip()) for name in self.variants.split(",")):
            raise invalid("variants", self.variants, "one or more different names, comma-separated")
        shared = {field.name: getattr(self, field.name) for field in fields(Recipe)}
        variants = [
            TrainConfig(**shared, **parse_variant(name), name=name, out=f"{self.folder}/{name}")
            for name in names
        ]
        seeds = parse_seeds(self.seeds)
        every = [seeded(variant, seeds, self.folder) for variant in variants]
        return [run for of_one_seed in zip(*every, strict=True) for run in of_one_seed]

    def check(self) -> None:
        super().check()
        for run in self.runs():
            run.check()


RECIPES = Path(__file__).parent.parent / "recipes"
"""Settings that are worth a name, as YAML files: `--config NAME`, or `recipe(name)`."""


def recipe_file(name: str) -> Path:
    """Where the settings of a recipe stand; `InputError` for a name that none has."""
    files = {path.stem: path for path in RECIPES.glob("*.yaml")}
    if name not in files:
        raise unknown("config", name, ["a YAML file", *files])
    return files[name]


@cache
def recipe(name: str) -> TrainConfig:
    """A recipe's settings."""
    return TrainConfig(**read_yaml("config", recipe_file(name)))
