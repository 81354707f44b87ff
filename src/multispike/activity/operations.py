"""One rule per operation (fvcore's habit): what it counts, and what its result carries.

What no rule covers, and what a rule can't count, is noted by name.
"""

from __future__ import annotations

from multispike.activity import elementwise_rules as values
from multispike.activity import layer_rules as layers
from multispike.activity.trace import Rule


def _of(rule: Rule, *names: str) -> dict[str, Rule]:
    return dict.fromkeys(names, rule)


RULES: dict[str, Rule] = {
    **_of(layers.conv, "conv1d", "conv2d", "conv3d"),
    **_of(layers.linear, "linear"),
    **_of(layers.batch_norm, "batch_norm"),
    **_of(
        layers.norm, "layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"
    ),
    "max_pool1d": layers.max_pool(1),
    "max_pool2d": layers.max_pool(2),
    "max_pool1d_with_indices": layers.max_pool(1),
    "max_pool2d_with_indices": layers.max_pool(2),
    "avg_pool1d": layers.avg_pool(1),
    "avg_pool2d": layers.avg_pool(2),
    "adaptive_avg_pool1d": layers.adaptive(1, averages=True),
    "adaptive_avg_pool2d": layers.adaptive(2, averages=True),
    "adaptive_max_pool1d": layers.adaptive(1, averages=False),
    "adaptive_max_pool2d": layers.adaptive(2, averages=False),
    "adaptive_max_pool1d_with_indices": layers.adaptive(1, averages=False),
    "adaptive_max_pool2d_with_indices": layers.adaptive(2, averages=False),
    **_of(layers.mean, "mean"),
    **_of(layers.total, "sum"),
    **_of(values.add, "add", "add_", "__radd__", "__iadd__"),
    **_of(values.mul, "mul", "mul_", "multiply", "__rmul__", "__imul__"),
    **_of(values.div, "div", "div_", "divide", "true_divide", "__itruediv__"),
    **_of(values.sub, "sub", "sub_", "subtract", "__isub__"),
    **_of(values.rsub, "rsub", "__rsub__"),
    **_of(values.join, "cat", "concat", "concatenate", "stack"),
    **_of(values.relu, "relu", "relu_"),
    **_of(
        values.activation, "relu6", "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_", "prelu"
    ),
    **_of(values.activation, "clamp_min", "clamp_min_", "threshold"),
    **_of(values.clamp, "clamp", "clamp_", "clip", "clip_"),
    **_of(values.clamp_max, "clamp_max", "clamp_max_"),
    **_of(
        values.costly, "gelu", "silu", "sigmoid", "tanh", "softplus", "elu", "celu", "selu", "mish"
    ),
    **_of(values.costly, "hardswish", "hardsigmoid", "softmax", "log_softmax", "rrelu"),
    **_of(values.same, "flatten", "unflatten", "view", "view_as", "reshape", "reshape_as", "ravel"),
    **_of(values.same, "squeeze", "squeeze_", "unsqueeze", "unsqueeze_", "contiguous", "clone"),
    **_of(values.same, "detach", "detach_", "to", "float", "double", "half", "bfloat16"),
    **_of(values.same, "type", "type_as", "cpu", "cuda", "alias", "requires_grad_", "identity"),
    **_of(
        values.part, "__getitem__", "select", "narrow", "index_select", "unbind", "chunk", "split"
    ),
    **_of(
        values.part, "tensor_split", "expand", "expand_as", "repeat", "repeat_interleave", "permute"
    ),
    **_of(values.part, "transpose", "swapaxes", "movedim", "t", "flip", "roll", "pixel_shuffle"),
    **_of(
        values.part, "pixel_unshuffle", "channel_shuffle", "adjoint", "broadcast_to", "zero_pad2d"
    ),
    **_of(values.attribute, "__get__"),
    **_of(values.write, "__setitem__", "copy_"),
    **_of(values.pad, "pad"),
    **_of(values.dropout, "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"),
    **_of(values.dropout, "alpha_dropout", "feature_alpha_dropout"),
    **_of(values.interpolate, "interpolate", "upsample"),
    **_of(values.plain, "zeros_like", "ones_like", "empty_like", "full_like", "rand_like"),
    **_of(
        values.plain, "randn_like", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"
    ),
}
"""Operation name -> rule; all spellings (function, method, operator, in place) share the name."""
