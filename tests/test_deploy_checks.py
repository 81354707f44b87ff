"""Integer networks, and files of them, that contradict themselves are refused in one line."""

import io
import json
import random
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from test_deploy_integer import MEAN, SHAPE, STD, realistic, shifts, tiny

from multispike.errors import InputError
from multispike.export.layers import HALVING, Bias, MaxPool, Merge, Neurons, Potentials, Synapses
from multispike.export.quantise import quantise
from multispike.export.serialize import load, save


@pytest.fixture(scope="module")
def network():
    return quantise(realistic("sew_resnet", stem="imagenet"), MEAN, STD, SHAPE)


def changed(network, kind, /, **changes):
    """The network, its first layer of a kind changed; callables get the former value."""
    layers = list(network.layers)
    index = next(i for i, layer in enumerate(layers) if isinstance(layer, kind))
    former = layers[index]
    values = {k: v(getattr(former, k)) if callable(v) else v for k, v in changes.items()}
    layers[index] = replace(former, **values)
    return replace(network, layers=tuple(layers))


def of_first(**changes):
    """Changes of the first projection."""
    return lambda synapses: (replace(synapses[0], **changes), *synapses[1:])


def of_window(**changes):
    """Changes of the first projection's window."""
    return lambda synapses: of_first(window=replace(synapses[0].window, **changes))(synapses)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (Neurons, {"levels": 0}, "levels of encoder: got 0"),
        (Neurons, {"levels": 256}, "levels of encoder: got 256"),
        (Neurons, {"step": lambda step: 0 * step}, "step of encoder"),
        (Neurons, {"step": lambda step: -step}, "step of encoder"),
        (Neurons, {"step": lambda step: step + 1}, "step of encoder"),
        (Neurons, {"step": lambda step: step[:1]}, "step of encoder"),
        (Neurons, {"start": lambda start: start[:1]}, "start of encoder"),
        (Neurons, {"start": lambda start: start + 1}, "start of encoder: .* zeros where T = 1"),
        (
            Neurons,
            {"sign": np.ones(6, np.int32), "pool": HALVING},
            "source of encoder: got 'image', .* max-pool",
        ),
        (Neurons, {"sign": np.ones(1, np.int32), "pool": HALVING}, "sign of encoder"),
        (Neurons, {"sign": np.zeros(6, np.int32), "pool": HALVING}, "sign of encoder"),
        (Neurons, {"sign": np.ones(6, np.int32)}, "sign of encoder: .* a pool, or neither"),
        (Neurons, {"name": "a; int x"}, "name: got 'a; int x'"),
        (Neurons, {"synapses": ()}, "synapses of encoder: got 0"),
        (Neurons, {"synapses": lambda s: (*s, *s)}, "name: got 'stem"),
        (Neurons, {"synapses": of_window(stride=(0, 1))}, "stride of stem"),
        (Neurons, {"synapses": of_window(before=(-1, 0))}, "before of stem"),
        (Neurons, {"synapses": of_window(dilation=(1,))}, "dilation of stem"),
        (Neurons, {"synapses": of_window(kernel=(3, 3))}, "weight of stem"),
        (Neurons, {"synapses": of_first(groups=0)}, "weight of stem"),
        (Neurons, {"synapses": of_first(groups=4)}, "weight of stem"),
        (Neurons, {"bias": lambda b: replace(b, rows=b.rows + 200)}, "bias rows of encoder: got"),
        (Neurons, {"bias": lambda b: replace(b, rows=b.rows[:1])}, "bias rows of encoder: got"),
        (Neurons, {"bias": lambda b: replace(b, columns=b.columns + 9)}, "bias columns of encoder"),
        (Neurons, {"bias": lambda b: replace(b, values=b.values[..., :1])}, "bias of encoder"),
        (Merge, {"kind": "xor"}, "kind of .*: got 'xor', allowed: add, and, iand"),
        (Merge, {"kind": "and"}, "merge: got levels up to 4, allowed: <= 1"),
        (Merge, {"shape": (6, 1, 1)}, "shape of .*merge"),
        (MaxPool, {"shape": (6, 1, 1)}, "shape of body.pool0"),
        (MaxPool, {"shape": (6, 1)}, "shape of body.pool0"),
    ],
)
def test_layers_that_do_not_fit_are_refused(network, kind, changes, message):
    with pytest.raises(InputError, match=message):
        changed(network, kind, **changes)


@pytest.mark.parametrize(
    ("shift", "message"), [(np.ones(1, np.int32), r"\(4,\)"), (np.full(4, 17, np.int32), "16")]
)
def test_shifts_that_do_not_fit_are_refused(shift, message):
    with pytest.raises(InputError, match=f"^shift of in: got .*{message}"):
        changed(shifts(), Potentials, synapses=of_first(shift=shift))


def test_gains_that_do_not_fit_are_refused():
    identity = (Synapses("in", "image", gain=np.ones(2, np.int32)),)
    with pytest.raises(InputError, match=r"^gain of in: got \(2,\)"):
        tiny(synapses=identity)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("arch", "x */ int injected(void); /*"),
        ("timesteps", 0),
        ("timesteps", -2),
        ("logit_scale", float("nan")),
        ("logit_scale", 0.0),
        ("logit_scale", float("inf")),
        ("input_shape", (1, 1)),
        ("layers", ()),
    ],
)
def test_networks_that_cannot_run_are_refused(field, value):
    with pytest.raises(InputError, match=f"^{field}: got"):
        replace(tiny(), **{field: value})


def test_a_readout_stands_at_the_end_only():
    layers = tiny().layers
    with pytest.raises(InputError, match=r"^layers: got"):
        replace(tiny(), layers=(*layers, replace(layers[-1], name="again")))


@pytest.mark.parametrize(
    ("name", "offset", "value"),
    [
        ("compression method", 10, 99),
        ("deflated", 10, 8),
        ("version", 6, 99),
        ("encrypted", 8, 1),
        ("patched", 8, 1 << 5),
    ],
)
def test_zip_features_that_are_none_of_ours_are_one_line(name, offset, value, tmp_path):
    path = tmp_path / "network.npz"
    save(tiny(), path)
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    content[central + offset] = value
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^path: got .*damaged or no") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_arrays_larger_than_memory_are_one_line(tmp_path):
    path = tmp_path / "network.npz"
    save(tiny(), path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        huge, {"descr": "<i4", "fortran_order": False, "shape": (2**50,)}
    )
    parts["layers/0/start.npy"] = huge.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    with pytest.raises(InputError, match=r"^path: got .*damaged or no"):
        load(path)


def test_a_bias_fits_its_layer():
    with pytest.raises(InputError, match=r"^bias of neuron: got \(1, 1, 2\)"):
        tiny(bias=Bias.uniform(np.zeros(2, np.int32), (1, 1, 1)))


ODD = (
    None, True, -1, 0, 1.5, 10**12, 2**63, 1e300, float("nan"), "x", "\ud800", [], {}, [1, [2]],
    [10**12, 1, 1], [10**6, 10**6, 10**6],
)  # fmt: skip


def places(value, found: list) -> list:
    """Every container of a description with each key that it has."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            places(value[key], found)
    return found


def mutate(header: dict, arrays: dict, rng: random.Random) -> None:
    """One thing in the description, or one array, is another."""
    container, key = rng.choice(places(header, []))
    name, other = rng.choice([*arrays]), rng.choice([*arrays])
    array = arrays[name]
    match rng.randrange(8):
        case 0:
            del container[key]
        case 1 | 2 | 3:
            container[key] = rng.choice(ODD)
        case 4:
            arrays[name] = array.astype(rng.choice(["i8", "u1", "f4", "O", "U3", "c8"]))
        case 5:
            arrays[name] = array.ravel()[: rng.randrange(array.size + 1)].reshape(-1, 1)
        case 6:
            info = np.iinfo(array.dtype)
            arrays[name] = np.full_like(array, rng.choice([info.min, info.max, 0]))
        case 7:
            arrays[name] = arrays[other]


@pytest.mark.parametrize(("kind", "count"), [("tiny", 120), ("shifts", 120), ("fastnet_l", 60)])
def test_networks_of_which_one_thing_is_wrong_are_one_line_or_run(kind, count, tmp_path):
    made = {"tiny": lambda: tiny(2), "shifts": shifts}
    network = made.get(kind, lambda: quantise(realistic(kind), MEAN, STD, SHAPE))()
    save(network, tmp_path / "whole.npz")
    with np.load(tmp_path / "whole.npz") as archive:
        whole = dict(archive)
    text = whole.pop("network.json").tobytes()
    refused = []
    for seed in range(count):
        header, arrays = json.loads(text), dict(whole)
        mutate(header, arrays, random.Random(seed))
        arrays["network.json"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        np.savez(tmp_path / "changed.npz", **arrays)
        try:
            found = load(tmp_path / "changed.npz")
            found.forward(np.zeros((1, *found.input_shape), np.uint8))
            print(*found.class_names)
        except InputError as error:
            refused.append(str(error))
    assert count / 2 < len(refused) < count
    assert not any("\n" in line for line in refused)
    "".join(refused).encode()


def test_a_compressed_network_is_refused_before_it_is_read(tmp_path):
    save(tiny(), tmp_path / "network.npz")
    with np.load(tmp_path / "network.npz") as archive:
        parts = dict(archive)
    parts["more"] = np.zeros(1 << 24, np.uint8)
    np.savez_compressed(tmp_path / "network.npz", **parts)
    with pytest.raises(InputError, match=r"^path: got .*announces 16,.* bytes"):
        load(tmp_path / "network.npz")
    np.save(tmp_path / "array.npz", np.zeros(3))
    (tmp_path / "array.npz.npy").rename(tmp_path / "array.npz")
    with pytest.raises(InputError, match=r"^path: got .*damaged or no"):
        load(tmp_path / "array.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: replace(n, timesteps=10**9), "timesteps: got 1000000000, allowed: 1 to 1,048,"),
        (lambda n: replace(n, timesteps=2**20), r"frames: got \[1048576, .*at most 67,108,864"),
        (lambda n: replace(n, input_shape=(1, 10**6, 10**6)), r"input_shape: got .*values"),
        (
            lambda n: changed(n, Neurons, synapses=of_window(stride=(10**9, 1))),
            "stride of stem.conv0: got .*two integers from 1 to",
        ),
        (
            lambda n: changed(n, Neurons, synapses=of_window(before=(9**6, 9**6))),
            "padding of stem.conv0: got .*at most 67,108,864 values",
        ),
    ],
)
def test_sizes_are_bounded_before_anything_is_allocated(network, change, message):
    with pytest.raises(InputError, match=f"^{message}"):
        change(network)
