"""Trained networks that travel with the package, by name, with the figures that `results/` has of
them; `multispike evaluate NAME --data-dir DIR` measures them again. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
DIGITS = "0 1 2 3 4 5 6 7 8 9"


@dataclass(frozen=True)
class Pretrained:
    """A network and what it does.

    Attributes:
        file: a checkpoint, or an integer network (.npz), which NumPy runs.
        arch, data: what it is, and what it was trained on.
        accuracy: on the whole test set.
        energy_nj: of an inference under lemaire2022 at 32 bit; of an integer network, that of the
            network it was made of.
        classes: of the data; separated by blanks.
        licence: of the weights.
    """

    file: str
    arch: str
    data: str
    accuracy: float
    energy_nj: float
    classes: str = CIFAR10
    licence: str = "MIT"

    @property
    def path(self) -> Path:
        return Path(__file__).parent / self.file


PRETRAINED = {
    # results/deploy_exact.json; energy: results/table-cifar10.json, multilevel-T1-N4, seed 0
    "cifar10-fastnet": Pretrained("cifar10-fastnet.npz", "fastnet", "cifar10", 0.9005, 6_202_735.4),
    # results/families.json, sparse-multilevel-T1-N4 and sew-multilevel-T1-N4
    "cifar10-sparse-resnet20": Pretrained(
        "cifar10-sparse-resnet20.ckpt", "sparse_resnet20", "cifar10", 0.8523, 1_284_931.8
    ),
    "cifar10-sew-resnet20": Pretrained(
        "cifar10-sew-resnet20.ckpt", "sew_resnet20", "cifar10", 0.8708, 1_420_443.4
    ),
    # results/table-nmnist.json, bins10-multilevel-T1-N4: the ten time bins of a recording are its
    # channels; trained on 1,000 recordings, measured on 100
    "nmnist-fastnet": Pretrained(
        "nmnist-fastnet.npz", "fastnet", "nmnist", 0.98, 11_203_912.7, DIGITS
    ),
}


def find(name: str) -> Path:
    """The file of a name of the table; any other path as it is.

    >>> find("cifar10-fastnet").name, find("runs/mine").as_posix()
    ('cifar10-fastnet.npz', 'runs/mine')
    """
    return PRETRAINED[name].path if name in PRETRAINED else Path(name)
