"""Integer networks, and files of them, that contradict themselves are refused in one line."""

import io
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
