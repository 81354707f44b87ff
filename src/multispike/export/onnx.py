"""An integer network as a graph of standard ONNX operators, and that as an ONNX or OpenVINO file
(`pip install multispike[deploy]`).

Weights are int8 behind DequantizeLinear, levels uint8 between QuantizeLinear and DequantizeLinear,
so that runtimes run 8-bit convolutions. Float32 are weights on levels so large that x86 processors
before VNNI, which add two products in 16 bits, would saturate, pixels among them; and weights on
sums and potentials, as OpenVINO on several streams mixes up int8 ones that meet float inputs. All
other numbers are whole ones in float32, exact below 2^24, but for a convolution that gives levels
by itself, in units of one. A level, floor(H/D) clipped to 0..N, is rounding with saturation,

    Clip(QuantizeLinear((H - (D-1)/2) / D), 0, N),

equal since D is odd: no whole H ever gives a tie, and each is 1/(2D) away from one, farther than
float32 rounding reaches while (N+1)*D < 2^22, and at T = 1, where D and bias may go into the scale
of the sum, while (N+1)*D + |bias| < 2^21; beyond, networks are refused. Convolutions of potentials
that can pass 2^24 are two, of high and of low bytes; neurons get 256 * high + low in -256..2^22.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from multispike.errors import Missing, invalid
from multispike.export.formats import description
from multispike.export.layers import (
    IMAGE,
    POTENTIAL_END,
    Concat,
    Ints,
    Layer,
    MaxPool,
    Merge,
    Neurons,
    Potentials,
    Readout,
    SumPool,
    Synapses,
    Window,
)
from multispike.export.network import IntegerNetwork
from multispike.export.validate import BYTE, RATIO, identifier, in_bytes, prove_float32
from multispike.files import replacing

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

PAIR_MAX = 2**15 - 1
"""Largest sum of two products that 8-bit kernels hold on every processor."""

OPSET = 17
"""Of 2022: per-axis DequantizeLinear, 8-bit Clip and MaxPool, and runtimes that know them."""


def export_onnx(network: IntegerNetwork, path: str | os.PathLike[str]) -> None:
    """Write `network` as ONNX (QDQ, standard operators, free batch), checked by onnx's checker."""
    target = _target(path, ".onnx")
    model = build(network)
    with replacing(target) as temporary:
        temporary.write_bytes(model.SerializeToString())


def export_openvino(network: IntegerNetwork, path: str | os.PathLike[str]) -> None:
    """Write `network` as OpenVINO IR: `path` (.xml) and, beside it, its weights (.bin)."""
    target = _target(path, ".xml")
    openvino = openvino_package()
    model = openvino.Core().read_model(build(network).SerializeToString())
    for name, fact in description(network).items():
        model.set_rt_info(fact, ["multispike", name])
    with TemporaryDirectory(prefix=".", dir=target.parent) as folder:
        # OpenVINO insists on the suffix; the weights come first, so that no .xml lacks its .bin.
        made = Path(folder) / "model.xml"
        try:
            openvino.serialize(model, str(made), str(made.with_suffix(".bin")))
        except RuntimeError as error:  # as of a full disk, without a reason
            raise OSError(errno.EIO, f"could not be written ({error})", str(target)) from error
        for suffix in (".bin", ".xml"):
            with replacing(target.with_suffix(suffix)) as temporary:
                os.replace(made.with_suffix(suffix), temporary)


def openvino_package() -> Any:
    """The openvino package, without the telemetry that writes an identifier to the home folder and
    calls a server: where its package can't be imported, a stub is taken."""
    check_installed("openvino")
    hidden = "openvino_telemetry"
    if hidden in sys.modules or "openvino" in sys.modules:
        return import_module("openvino")
    sys.modules[hidden] = None  # pyright: ignore[reportArgumentType]
    try:
        return import_module("openvino")
    finally:
        del sys.modules[hidden]


def check_installed(module: str) -> None:
    """Raise `Missing` where an optional package is."""
    if find_spec(module) is None:
        raise Missing(f"{module}: not installed, allowed: pip install 'multispike[deploy]'")


def _target(path: str | os.PathLike[str], suffix: str) -> Path:
    """`path`, if onnx is installed and may write there."""
    check_installed("onnx")
    if Path(path).suffix != suffix:
        raise invalid("path", str(path), f"a file name that ends in {suffix}")
    return Path(path)


def build(network: IntegerNetwork) -> ModelProto:
    """The model: input "image" uint8 [batch, C, H, W] (event frames: [T, batch, ...]), output
    "logits" float32 [batch, classes] in the float network's units.

    Raises:
        InputError: naming the layer whose numbers float32 may not hold exactly.
    """
    from onnx import TensorProto, checker, helper

    prove_float32(network.layers, network.outputs, network.timesteps)
    writer = _Writer(network)
    steps = [network.timesteps] if network.events else []
    shape = [*steps, "batch", *network.input_shape]
    classes = network.readout.shape[0]
    graph = helper.make_graph(
        writer.nodes,
        identifier(network.arch),
        [helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        writer.constants,
    )
    options: dict[str, Any] = {"ir_version": 8, "producer_name": "multispike"}
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], **options)
    helper.set_model_props(model, description(network))
    checker.check_model(model, full_check=True)
    return model


class _Writer:
    """Writes nodes timestep by timestep; names end in /t where they depend on it."""

    def __init__(self, network: IntegerNetwork) -> None:
        self.network = network
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.known: set[str] = set()
        self.values = {IMAGE: IMAGE}
        self.membranes: dict[str, str] = {}
        read = []
        for t in range(network.timesteps):
            self.time = f"t{t}" if network.timesteps > 1 else ""
            if network.events:
                index = self.constant(f"index{t}", np.int64(t))
                self.values[IMAGE] = self.op("Gather", [IMAGE, index], "frame", axis=0)
            for layer in network.layers[:-1]:
                if t == 0 or layer.name not in network.computed_once:
                    self.values[layer.name] = self.layer(layer)
            read.append(self.value(network.readout.synapses[0].source))
        self.readout(network.readout, read)

    def constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        if name not in self.known:
            self.known.add(name)
            self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def number(self, value: float) -> str:
        return self.constant(f"{value}", np.float32(value))

    def op(
        self, kind: str, inputs: list[str], name: str, timeless: bool = False, **options: Any
    ) -> str:
        """One node, its output named after it; a `timeless` one is written once."""
        from onnx import helper

        output = name if timeless or not self.time else f"{name}/{self.time}"
        if output not in self.known:
            self.known.add(output)
            self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **options))
        return output

    def is_levels(self, name: str) -> bool:
        return self.network.outputs[name].dtype == "uint8"

    def value(self, name: str) -> str:
        """What a layer sends, in float32."""
        sent = self.values[name]
        if not self.is_levels(name):
            return sent
        return self.op("DequantizeLinear", [sent, *self.unit()], f"{sent}/float", True)

    def layer(self, layer: Layer) -> str:
        """Nodes of one layer at this timestep; gives the name of what it sends."""
        match layer:
            case Neurons():
                return self.neurons(layer)
            case Potentials():
                ends = [self.number(-POTENTIAL_END), self.number(POTENTIAL_END - 1)]
                return self.op("Clip", [self.drive(layer), *ends], layer.name)
            case Merge():
                path, shortcut = self.value(layer.path), self.value(layer.shortcut)
                if layer.kind == "iand":
                    path = self.op("Sub", [self.number(1), path], f"{layer.name}/not")
                kind = "Add" if layer.kind == "add" else "Mul"
                total = self.op(kind, [path, shortcut], f"{layer.name}/sum")
                return self.quantised(total, layer.name)
            case MaxPool():
                return self.max_pool(self.values[layer.source], layer.window, layer.name)
            case SumPool():
                return self.sum_pool(layer)
            case Concat():
                return self.op("Concat", [self.values[x] for x in layer.parts], layer.name, axis=1)
        raise TypeError(type(layer).__name__)

    def neurons(self, layer: Neurons) -> str:
        name, offset = layer.name, (layer.step - 1) // 2
        (one, *more) = layer.synapses
        plain = not more and one.weight is not None and layer.bias.is_uniform
        positive = layer.sign is None or bool((layer.sign > 0).all())
        if plain and positive and self.is_byte(one) and self.network.timesteps == 1:
            return self.folded(layer, one, offset)
        h = self.drive(layer)
        if self.network.timesteps > 1:
            before = self.membranes.get(name) or self.channels(f"{name}/start", layer.start)
            h = self.op("Add", [h, before], f"{name}/h")
        shifted = self.op("Sub", [h, self.channels(f"{name}/half", offset)], f"{name}/shifted")
        inverse = self.channels(f"{name}/inverse", 1 / layer.step)
        ratio = self.op("Mul", [shifted, inverse], f"{name}/ratio")
        level = self.values[name] = self.clipped(self.quantised(ratio, f"{name}/q"), layer)
        if self.network.timesteps > 1:
            step = self.channels(f"{name}/step", layer.step)
            sent = self.op("Mul", [self.value(name), step], f"{name}/sent")
            self.membranes[name] = self.op("Sub", [h, sent], f"{name}/v")
        return level

    def is_byte(self, one: Synapses) -> bool:
        """Whether 8-bit kernels sum these levels times weights exactly on every processor."""
        assert one.weight is not None
        largest_weight = int(np.abs(one.weight.astype(np.int64)).max())
        product = self.network.outputs[one.source].largest * largest_weight
        return self.is_levels(one.source) and 2 * product <= PAIR_MAX

    def folded(self, layer: Neurons, one: Synapses, offset: Ints) -> str:
        """One 8-bit convolution in units of one level, rounded: its bias and scale carry the rest,
        and a max-pool commutes with all of it."""
        bias = (layer.bias.values[0, 0] - offset) / layer.step
        inputs = [
            self.value(one.source),
            self.bytes_weight(one, 1 / layer.step),
            self.constant(f"{one.name}/bias", bias.astype(np.float32)),
        ]
        ratio = self.op("Conv", inputs, one.name, **geometry(one.window, one.groups))
        level = self.clipped(self.quantised(ratio, f"{layer.name}/q"), layer)
        return self.max_pool(level, layer.pool, f"{layer.name}/pool") if layer.pool else level

    def drive(self, layer: Neurons | Potentials) -> str:
        """Bias plus the sum of all synapses."""
        total, highs = None, list[str | None]()
        for one in layer.synapses:
            high, part = self.synapses(layer, one)
            highs.append(high)
            total = part if total is None else self.op("Add", [total, part], f"{one.name}/sum")
        assert total is not None
        if isinstance(layer, Neurons) and layer.pool:
            total = self.max_pool(total, layer.pool, f"{layer.name}/pool")
            sign = self.channels(f"{layer.name}/sign", layer.sign)
            total = self.op("Mul", [total, sign], f"{layer.name}/signed")
        image = layer.bias.image()[None].astype(np.float32)
        if layer.bias.is_uniform:
            image = image[:, :, :1, :1]
        bias = self.constant(f"{layer.name}/bias", image)
        total = self.op("Add", [total, bias], f"{layer.name}/drive")
        if not any(highs):
            return total
        high, low = self.bytes(total, f"{layer.name}/total")
        for one in filter(None, highs):
            high = self.op("Add", [high, one], f"{one}/added")
        ends = [self.number(-1), self.number(RATIO / BYTE)]
        high = self.op("Clip", [high, *ends], f"{layer.name}/near")
        high = self.op("Mul", [high, self.number(BYTE)], f"{layer.name}/units")
        return self.op("Add", [high, low], f"{layer.name}/whole")

    def bytes(self, value: str, name: str) -> tuple[str, str]:
        """Whole numbers as 256 * high + low, 0 <= low < 256."""
        share = self.op("Mul", [value, self.number(1 / BYTE)], f"{name}/share")
        high = self.op("Floor", [share], f"{name}/high")
        rounded = self.op("Mul", [high, self.number(BYTE)], f"{name}/rounded")
        return high, self.op("Sub", [value, rounded], f"{name}/low")

    def synapses(self, layer: Neurons | Potentials, one: Synapses) -> tuple[str | None, str]:
        """The sum over one projection, in whole units, over a still image computed once; 256 times
        the first plus the second where it is summed in bytes onto neurons."""
        still = one.source == IMAGE and not self.network.events
        value, high = self.value(one.source), None
        if one.gain is not None:
            gain = self.channels(f"{one.name}/gain", one.gain)
            return None, self.op("Mul", [value, gain], one.name)
        assert one.weight is not None
        if self.is_byte(one):
            weight = self.bytes_weight(one, np.ones(len(one.weight)))
        else:
            weight = self.constant(f"{one.name}/weight", one.weight.astype(np.float32))
        options = geometry(one.window, one.groups)
        if in_bytes(layer, one, self.network.outputs, self.network.timesteps):
            high, value = self.bytes(value, one.name)
            high = self.op("Conv", [high, weight], f"{one.name}/conv_high", **options)
        total = self.op("Conv", [value, weight], one.name, still, **options)
        if one.shift is None:
            return high, total
        scale = self.channels(f"{one.name}/scale", 0.5 ** one.shift.astype(np.float64))
        half = self.channels(f"{one.name}/half", np.where(one.shift > 0, 0.5, 0))
        if high:
            carry, total = self.bytes(total, f"{one.name}/sum")
            high = self.op("Add", [high, carry], f"{one.name}/sum_high")
            high = self.op("Mul", [high, self.number(BYTE)], f"{one.name}/units")
            high = self.op("Mul", [high, scale], f"{one.name}/scaled_high")
            whole = self.op("Floor", [high], f"{one.name}/whole")
            rest = self.op("Sub", [high, whole], f"{one.name}/rest")
            half = self.op("Add", [half, rest], f"{one.name}/both")
        scaled = self.op("Mul", [total, scale], f"{one.name}/scaled", still)
        scaled = self.op("Add", [scaled, half], f"{one.name}/half_up", still)
        total = self.op("Floor", [scaled], f"{one.name}/shifted", still)
        return None, self.op("Add", [total, whole], f"{one.name}/all") if high else total

    def bytes_weight(self, one: Synapses, scale: Any) -> str:
        """int8 weights times a scale a channel."""
        assert one.weight is not None
        inputs = [
            self.constant(f"{one.name}/int8", one.weight),
            self.constant(f"{one.name}/unit", np.asarray(scale).astype(np.float32)),
            self.constant(f"{one.name}/zero", np.zeros(len(one.weight), np.int8)),
        ]
        return self.op("DequantizeLinear", inputs, f"{one.name}/weight", True, axis=0)

    def channels(self, name: str, values: Any) -> str:
        return self.constant(name, np.asarray(values).astype(np.float32)[None, :, None, None])

    def quantised(self, value: str, name: str) -> str:
        return self.op("QuantizeLinear", [value, *self.unit()], name)

    def unit(self) -> list[str]:
        """Scale and zero point of levels."""
        return [self.number(1), self.constant("zero8", np.uint8(0))]

    def clipped(self, level: str, layer: Neurons) -> str:
        """At most N; a byte saturates at 255 by itself."""
        if layer.levels == 255:
            return level
        top = self.constant(f"levels{layer.levels}", np.uint8(layer.levels))
        return self.op("Clip", [level, self.unit()[1], top], layer.name)

    def max_pool(self, value: str, window: Window, name: str) -> str:
        return self.op("MaxPool", [value], name, kernel_shape=window.kernel, **geometry(window))

    def sum_pool(self, layer: SumPool) -> str:
        """Over the whole image at once, else as a convolution with ones."""
        value, shape = self.value(layer.source), self.network.outputs[layer.source].shape
        if layer.window.covers(shape):
            axes = self.constant("image_axes", np.array([2, 3], np.int64))
            return self.op("ReduceSum", [value, axes], layer.name, keepdims=1)
        ones = np.ones((shape[0], 1, *layer.window.kernel), np.float32)
        weight = self.constant(f"{layer.name}/ones", ones)
        return self.op("Conv", [value, weight], layer.name, **geometry(layer.window, shape[0]))

    def readout(self, layer: Readout, read: list[str]) -> None:
        """Sums of all timesteps times weights, plus T biases, in the float network's units."""
        (one,) = layer.synapses
        assert one.weight is not None
        total, *more = read
        self.time = ""
        for t, each in enumerate(more, start=1):
            total = self.op("Add", [total, each], f"total{t}")
        flat = self.op("Flatten", [total], "flat")
        # In float32: OpenVINO would round the inputs of an 8-bit matrix product to 8 bits as well.
        matrix = one.weight.reshape(len(one.weight), -1).T.astype(np.float32)
        weight = self.constant(f"{one.name}/weight", matrix)
        biases = (layer.bias.values[0, 0] * self.network.timesteps).astype(np.float32)
        bias = self.constant("logits/bias", biases)
        total = self.op("MatMul", [flat, weight], "product")
        unit = self.constant("logits/unit", np.float32(self.network.logit_scale))
        self.op("Mul", [self.op("Add", [total, bias], "sum"), unit], "logits")


def geometry(window: Window, groups: int = 1) -> dict[str, Any]:
    """A window as attributes; those at their defaults are left out."""
    options: dict[str, Any] = {"pads": [*window.before, *window.after], "strides": window.stride}
    if window.dilation != (1, 1):
        options["dilations"] = window.dilation
    if groups > 1:
        options["group"] = groups
    return options
