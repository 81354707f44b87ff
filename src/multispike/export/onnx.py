"""An integer network as a graph of standard ONNX operators.

Weights are int8 behind DequantizeLinear, levels uint8 between QuantizeLinear and DequantizeLinear,
so that runtimes run 8-bit convolutions. Where processors have no instruction for four products at
once (x86 before VNNI) these add two in 16 bits, which saturates: weights on levels large enough for
that, pixels among them, are float32. All other numbers are whole ones in float32, exact below 2^24,
but for a convolution that gives levels by itself, in units of one level. A neuron's level,
floor(H/D) clipped to 0..N, is written as rounding with saturation,

    Clip(QuantizeLinear((H - (D-1)/2) / D), 0, N),

equal since D is odd: no whole H ever gives a tie, and each is 1/(2D) away from one, farther than
float32 rounding reaches while (N+1)*D < 2^22, and at T = 1, where D and bias may go into the scale
of the sum, while (N+1)*D + |bias| < 2^21. Networks whose bounds pass these limits are refused;
only the dense shortcut convolutions of MS-ResNet may pass 2^24.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from multispike.export.layers import (
    IMAGE,
    POTENTIAL_END,
    GlobalSum,
    Ints,
    Layer,
    MaxPool,
    Merge,
    Neurons,
    Potentials,
    Readout,
    Shape,
    Synapses,
)
from multispike.export.network import IntegerNetwork
from multispike.export.validate import prove_float32

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

PAIR_MAX = 2**15 - 1
"""Largest sum of two products that 8-bit kernels hold on every processor."""

OPSET = 17
"""Of 2022: per-axis DequantizeLinear, 8-bit Clip and MaxPool, and runtimes that know them."""


def build(network: IntegerNetwork) -> ModelProto:
    """The model: input "image" uint8 [batch, C, H, W] (event frames: [T, batch, ...]), output
    "logits" float32 [batch, classes] in the float network's units.

    Raises:
        InputError: naming the layer whose numbers float32 may not hold exactly.
    """
    from onnx import TensorProto, checker, helper

    prove_float32(network.layers, network.outputs, network.timesteps)
    writer = _Writer(network)
    writer.write()
    steps = [network.timesteps] if network.events else []
    shape = [*steps, "batch", *network.input_shape]
    classes = network.readout.shape[0]
    graph = helper.make_graph(
        writer.nodes,
        network.arch.replace("-", "_"),
        [helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        writer.constants,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
        producer_name="multispike",
    )
    helper.set_model_props(model, {"logit_scale": repr(network.logit_scale)})
    checker.check_model(model, full_check=True)
    return model


class _Writer:
    """Writes nodes timestep by timestep; names end in /t where they depend on it."""

    def __init__(self, network: IntegerNetwork) -> None:
        self.network = network
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.known: set[str] = set()
        self.time = ""
        self.levels: dict[str, str] = {}
        self.floats: dict[str, str] = {}
        self.membranes: dict[str, str] = {}
        self.pooled: list[str] = []

    def constant(self, name: str, value: Any) -> str:
        """A constant, stored once."""
        from onnx import numpy_helper

        if name not in self.known:
            self.known.add(name)
            self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

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

    def write(self) -> None:
        """All timesteps, then the readout."""
        network = self.network
        for t in range(network.timesteps):
            self.time = f"t{t}" if network.timesteps > 1 else ""
            self.image(t)
            for layer in network.layers:
                still = t > 0 and layer.name in network.computed_once
                if not isinstance(layer, Readout) and not still:
                    self.layer(layer)
            self.pooled.append(self.value(network.readout.synapses[0].source))
        self.readout(network.readout)

    def image(self, t: int) -> None:
        """The input of this timestep."""
        if self.network.events:
            index = self.constant(f"index{t}", np.int64(t))
            self.levels[IMAGE] = self.op("Gather", [IMAGE, index], "frame", axis=0)
        elif t > 0:
            return
        else:
            self.levels[IMAGE] = IMAGE
        self.floats.pop(IMAGE, None)

    def value(self, name: str) -> str:
        """What a layer sends, in float32."""
        if name not in self.floats:
            unit = [self.constant("one", np.float32(1)), self.constant("zero8", np.uint8(0))]
            level = self.levels[name]
            self.floats[name] = self.op("DequantizeLinear", [level, *unit], f"{level}/float", True)
        return self.floats[name]

    def sends_levels(self, name: str, level: str) -> None:
        self.levels[name] = level
        self.floats.pop(name, None)

    def layer(self, layer: Layer) -> None:
        """Nodes of one layer at this timestep."""
        match layer:
            case Neurons():
                self.neurons(layer)
            case Potentials():
                self.floats[layer.name] = self.potentials(layer)
            case Merge():
                path, shortcut = self.value(layer.path), self.value(layer.shortcut)
                if layer.kind == "iand":
                    path = self.op(
                        "Sub", [self.constant("one", np.float32(1)), path], f"{layer.name}/not"
                    )
                kind = "Add" if layer.kind == "add" else "Mul"
                total = self.op(kind, [path, shortcut], f"{layer.name}/sum")
                self.sends_levels(layer.name, self.quantised(total, layer.name))
            case MaxPool() if layer.source in self.levels:
                source, shape = self.levels[layer.source], self.network.outputs[layer.source].shape
                self.sends_levels(layer.name, self.max_pool(source, shape, layer.name))
            case MaxPool():
                source, shape = self.value(layer.source), self.network.outputs[layer.source].shape
                self.floats[layer.name] = self.max_pool(source, shape, layer.name)
            case GlobalSum():
                axes = self.constant("image_axes", np.array([2, 3], np.int64))
                inputs = [self.value(layer.source), axes]
                self.floats[layer.name] = self.op("ReduceSum", inputs, layer.name, keepdims=1)

    def neurons(self, layer: Neurons) -> None:
        """Charge, fire and, where there is a next timestep, reset."""
        name, offset = layer.name, (layer.step - 1) // 2
        if self.folds(layer):
            level = self.folded(layer, offset)
        else:
            h = self.drive(layer)
            if self.network.timesteps > 1:
                before = self.membranes.get(name) or self.channels(f"{name}/start", layer.start)
                h = self.op("Add", [h, before], f"{name}/h")
            shifted = self.op("Sub", [h, self.channels(f"{name}/half", offset)], f"{name}/shifted")
            inverse = self.channels(f"{name}/inverse", 1 / layer.step)
            level = self.quantised(self.op("Mul", [shifted, inverse], f"{name}/ratio"), f"{name}/q")
            level = self.clipped(level, layer)
        self.sends_levels(name, level)
        if self.network.timesteps > 1:
            step = self.channels(f"{name}/step", layer.step)
            sent = self.op("Mul", [self.value(name), step], f"{name}/sent")
            self.membranes[name] = self.op("Sub", [h, sent], f"{name}/v")  # pyright: ignore[reportPossiblyUnbound]

    def folds(self, layer: Neurons) -> bool:
        """Whether one 8-bit convolution can do it all: its bias and scale then carry the rest."""
        (one, *more) = layer.synapses
        plain = not more and one.weight is not None and layer.bias.is_uniform
        positive = layer.sign is None or bool((layer.sign > 0).all())
        return plain and positive and self.is_byte(one) and self.network.timesteps == 1

    def is_byte(self, one: Synapses) -> bool:
        """Whether 8-bit kernels sum these levels times weights exactly on every processor."""
        assert one.weight is not None
        largest_weight = int(np.abs(one.weight.astype(np.int64)).max())
        product = self.network.outputs[one.source].largest * largest_weight
        return one.source in self.levels and 2 * product <= PAIR_MAX

    def folded(self, layer: Neurons, offset: Ints) -> str:
        """Convolution in units of one level, rounded; a max-pool commutes with all of it."""
        (one,) = layer.synapses
        bias = (layer.bias.values[0, 0] - offset) / layer.step
        inputs = [
            self.value(one.source),
            self.bytes_weight(one, 1 / layer.step),
            self.constant(f"{one.name}/bias", bias.astype(np.float32)),
        ]
        ratio = self.op("Conv", inputs, one.name, **self.geometry(one))
        level = self.clipped(self.quantised(ratio, f"{layer.name}/q"), layer)
        if layer.sign is None:
            return level
        reach = one.sum_shape(self.network.outputs[one.source].shape)
        return self.max_pool(level, reach, f"{layer.name}/pool")

    def potentials(self, layer: Potentials) -> str:
        """A saturating sum in fixed point."""
        ends = [
            self.constant("lowest", np.float32(-POTENTIAL_END)),
            self.constant("highest", np.float32(POTENTIAL_END - 1)),
        ]
        return self.op("Clip", [self.drive(layer), *ends], layer.name)

    def drive(self, layer: Neurons | Potentials) -> str:
        """Bias plus the sum of all synapses."""
        total = None
        for one in layer.synapses:
            part = self.synapses(one, layer)
            total = part if total is None else self.op("Add", [total, part], f"{one.name}/sum")
        assert total is not None
        if isinstance(layer, Neurons) and layer.sign is not None:
            (one,) = layer.synapses
            reach = one.sum_shape(self.network.outputs[one.source].shape)
            total = self.max_pool(total, reach, f"{layer.name}/pool")
            sign = self.channels(f"{layer.name}/sign", layer.sign)
            total = self.op("Mul", [total, sign], f"{layer.name}/signed")
        image = layer.bias.image()[None].astype(np.float32)
        if layer.bias.is_uniform:
            image = image[:, :, :1, :1]
        return self.op(
            "Add", [total, self.constant(f"{layer.name}/bias", image)], f"{layer.name}/drive"
        )

    def synapses(self, one: Synapses, layer: Neurons | Potentials) -> str:
        """The sum over one projection, in whole units; over a still image computed once."""
        still = one.source == IMAGE and not self.network.events
        value = self.value(one.source)
        if one.gain is not None:
            return self.op("Mul", [value, self.channels(f"{one.name}/gain", one.gain)], one.name)
        weight = self.weight(one)
        total = self.op("Conv", [value, weight], one.name, still, **self.geometry(one))
        if one.shift is None:
            return total
        scale = self.channels(f"{one.name}/scale", 0.5 ** one.shift.astype(np.float64))
        half = self.channels(f"{one.name}/half", np.where(one.shift > 0, 0.5, 0))
        scaled = self.op("Mul", [total, scale], f"{one.name}/scaled", still)
        scaled = self.op("Add", [scaled, half], f"{one.name}/half_up", still)
        return self.op("Floor", [scaled], f"{one.name}/shifted", still)

    def weight(self, one: Synapses) -> str:
        """Whole weights."""
        assert one.weight is not None
        if one.source in self.levels and not self.is_byte(one):
            return self.constant(f"{one.name}/weight", one.weight.astype(np.float32))
        return self.bytes_weight(one, np.ones(len(one.weight)))

    def bytes_weight(self, one: Synapses, scale: Any) -> str:
        """int8 weights times a scale a channel."""
        assert one.weight is not None
        inputs = [
            self.constant(f"{one.name}/int8", one.weight),
            self.constant(f"{one.name}/unit", np.asarray(scale).astype(np.float32)),
            self.constant(f"{one.name}/zero", np.zeros(len(one.weight), np.int8)),
        ]
        return self.op("DequantizeLinear", inputs, f"{one.name}/weight", True, axis=0)

    def geometry(self, one: Synapses) -> dict[str, Any]:
        return {"pads": [one.padding] * 4, "strides": [one.stride] * 2}

    def channels(self, name: str, values: Any) -> str:
        """A constant a channel."""
        return self.constant(name, np.asarray(values).astype(np.float32)[None, :, None, None])

    def quantised(self, value: str, name: str) -> str:
        """The nearest of 0..255."""
        unit = [self.constant("one", np.float32(1)), self.constant("zero8", np.uint8(0))]
        return self.op("QuantizeLinear", [value, *unit], name)

    def clipped(self, level: str, layer: Neurons) -> str:
        """At most N; a byte saturates at 255 by itself."""
        if layer.levels == 255:
            return level
        ends = [
            self.constant("zero8", np.uint8(0)),
            self.constant(f"levels{layer.levels}", np.uint8(layer.levels)),
        ]
        return self.op("Clip", [level, *ends], layer.name)

    def max_pool(self, value: str, shape: Shape, name: str) -> str:
        """2x2; windows are cut at an odd border, also where the image is but one pixel wide."""
        window = [min(2, size) for size in shape[1:]]
        odd = int(any(size % 2 for size in shape[1:]))
        return self.op("MaxPool", [value], name, kernel_shape=window, strides=window, ceil_mode=odd)

    def readout(self, layer: Readout) -> None:
        """Sums of all timesteps times weights, plus T biases, in the float network's units."""
        (one,) = layer.synapses
        assert one.weight is not None
        total = self.pooled[0]
        self.time = ""
        for t, pooled in enumerate(self.pooled[1:], start=1):
            total = self.op("Add", [total, pooled], f"total{t}")
        flat = self.op("Flatten", [total], "flat")
        # In float32: OpenVINO would round the inputs of an 8-bit matrix product to 8 bits as well.
        weight = self.constant(f"{one.name}/weight", one.weight[:, :, 0, 0].T.astype(np.float32))
        bias = layer.bias.values[0, 0] * self.network.timesteps
        total = self.op("MatMul", [flat, weight], "product")
        bias = self.constant("logits/bias", bias.astype(np.float32))
        unit = self.constant("logits/unit", np.float32(self.network.logit_scale))
        self.op("Mul", [self.op("Add", [total, bias], "sum"), unit], "logits")
