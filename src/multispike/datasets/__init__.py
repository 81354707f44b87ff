"""Data sets by name. Importing this loads no torch: the command line lists names from here.

A row of `DATASETS` names a function `load(request: Request, **options) -> Dataset`
(`multispike.datasets.dataset`); adding a data set is adding a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multispike import plugins
from multispike.errors import InputError, invalid, unknown

if TYPE_CHECKING:
    from multispike.datasets.dataset import Dataset

__all__ = ["DATASETS", "Source", "list_datasets", "load_dataset", "source_of"]


@dataclass(frozen=True)
class Source:
    """One row: where a data set comes from.

    load: `"module:function"`, imported on use; description: one line for listings.
    events: True if samples are `[T, C, H, W]` event frames, False if `[C, H, W]` images.
    options: keyword options that the function takes beyond the request.
    download: whether `download=True` can fetch it.
    mirrored: whether a mirrored sample keeps its label: then training mirrors by default.
    val_share: of the training samples that is kept for validation by default, where the set has
        no validation split of its own; none of published sets, as their results were reported.
    """

    load: str
    description: str
    events: bool = False
    options: tuple[str, ...] = ()
    download: bool = False
    mirrored: bool = False
    val_share: float = 0.0


IMAGES, EVENTS = "multispike.datasets.image_sets", "multispike.datasets.event_sets"
FRAMING = ("timesteps", "bins", "size", "by")
FOLDER = ("test_share", "val_share", "skip_damaged")

DATASETS: dict[str, Source] = {
    "digits": Source(
        f"{IMAGES}:load_digits",
        "8x8 grey handwritten digits, 10 classes, 1,437 + 360, bundled with scikit-learn",
    ),
    "fashion_mnist": Source(
        f"{IMAGES}:load_fashion_mnist",
        "28x28 grey clothes, 10 classes, 60,000 + 10,000, from idx files",
    ),
    "cifar10": Source(
        f"{IMAGES}:load_cifar",
        "32x32 colour images, 10 classes, 50,000 + 10,000, from parquet or the official tarball",
        download=True, mirrored=True,
    ),
    "cifar100": Source(
        f"{IMAGES}:load_cifar",
        "32x32 colour images, 100 classes, 50,000 + 10,000, from parquet or the official tarball",
        download=True, mirrored=True,
    ),
    "imagefolder": Source(
        f"{IMAGES}:load_imagefolder",
        "your own images in train/CLASS and test/CLASS (or val/CLASS) folders",
        options=("size", "background", *FOLDER), mirrored=True, val_share=0.1,
    ),
    "cifar10dvs": Source(
        f"{EVENTS}:load_published",
        "128x128 event recordings of CIFAR-10 images, 10 classes, 9,000 + 1,000, four splits",
        events=True, options=(*FRAMING, "split"), download=True, mirrored=True,
    ),
    "dvsgesture": Source(
        f"{EVENTS}:load_published",
        "128x128 event recordings of gestures, 11 classes, 1,077 + 264, as Tonic cuts them",
        events=True, options=FRAMING, download=True,
    ),
    "nmnist": Source(
        f"{EVENTS}:load_published",
        "34x34 event recordings of handwritten digits, 10 classes, 60,000 + 10,000",
        events=True, options=FRAMING, download=True,
    ),
    "eventfolder": Source(
        f"{EVENTS}:load_eventfolder",
        "your own event recordings in train/CLASS and test/CLASS (or val/CLASS) folders",
        events=True, options=(*FRAMING, "sensor", *FOLDER), val_share=0.1,
    ),
}  # fmt: skip
DATASETS |= {
    f"{name}-dvs-sim": Source(
        f"{EVENTS}:load_emulated",
        f"emulated event-camera recordings of the images of {name}",
        events=True, options=tuple(dict.fromkeys(("timesteps", "bins", "size", *source.options))),
        download=source.download, mirrored=source.mirrored, val_share=source.val_share,
    )
    for name, source in DATASETS.items()
    if not source.events
}  # fmt: skip


def source_of(name: str) -> Source:
    """A row of the table, or one for a function of somebody else's (`multispike.plugins`):
    `load(request)`, which may take options by their names as well.

    Raises `InputError` for an unknown name, or a function that is gone.
    """
    if name in DATASETS:
        return DATASETS[name]
    plugins.check_name("data", name, DATASETS)
    options = tuple(signature(plugins.load("data", name)).parameters)[1:]
    return Source(name, "your own", options=options)


def list_datasets() -> list[str]:
    """The names that `load_dataset` takes, sorted.

    >>> "digits" in list_datasets()
    True
    """
    return sorted(DATASETS)


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    limit_train: int | None = None,
    limit_test: int | None = None,
    cache_dir: str | Path | None = None,
    download: bool = False,
    progress: bool = True,
    **options: Any,
) -> Dataset:
    """Load a data set into uint8 tensors, decoded once and then read from a cache.

    data_dir: folder (or archive) with the source; None means the set's default places.
    limit_train, limit_test: take that many samples of a split: always the same ones, spread over
        it and with the classes as equally often as it permits (`balanced_indices`).
    cache_dir: where decoded arrays are kept; default `$MULTISPIKE_CACHE`, else
        `~/.cache/multispike`. A cache that can't be written costs a warning, nothing else.
    download: fetch the official source if it isn't in `data_dir` (or, without one, the cache).
    progress: show a bar while downloading or decoding, if standard error is a terminal.
    options: what the set's row lists as `options`.

    Raises `InputError` for an unknown name or option, a limit out of range, and a source that
    is missing, damaged or not what its checksum says; `RunError` if a download broke off.

    >>> digits = load_dataset("digits", limit_train=100)
    >>> digits.input_shape, digits.num_classes, digits.train.inputs.shape
    ((1, 8, 8), 10, torch.Size([100, 1, 8, 8]))
    """
    from multispike.datasets.cache import Cache
    from multispike.datasets.dataset import Dataset, Request

    source = source_of(name)
    for option, value in options.items():
        if option not in source.options:
            if source.options:
                raise unknown(f"option of {name}", option, source.options)
            raise invalid(f"option of {name}", f"{option}={value!r}", "none, it takes no options")
    if download and not source.download:
        raise invalid("download", download, f"False: there is no download for {name}")
    folder = Path(data_dir).expanduser() if data_dir is not None else None
    cache = Cache(cache_dir)
    own = name not in DATASETS
    title = plugins.label(name) if own else name
    request = Request(title, folder, cache, download, progress, limit_train, limit_test)
    module, _, function = source.load.rpartition(":")
    load = plugins.load("data", name) if own else getattr(import_module(module), function)
    try:
        dataset: Dataset = load(request, **options)
    except InputError:
        raise
    except OSError as error:  # what a loader foresees it tells itself; this is the rest
        reason = f"readable files ({error.strerror or error}: {error.filename})"
        raise invalid("data_dir", str(data_dir), reason) from None
    except Exception as error:
        if not own:
            raise
        raise plugins.failed("data", name, "loaded", error) from error
    if own:
        if not isinstance(dataset, Dataset):
            allowed = f"a function that returns a multispike Dataset, not {type(dataset).__name__}"
            raise invalid("data", name, allowed)
        dataset = replace(dataset, name=name)
    return dataset.limited(limit_train, limit_test)
