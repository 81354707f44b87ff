"""What an integer network does for a batch: events, synaptic operations, updates of potentials.

Counts are exact whole numbers, summed over images and timesteps. The C program counts the same
(`-DCOUNT`), and both equal `multispike.activity`'s exact counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multispike.export.layers import Neurons, Shape, Synapses
from multispike.export.network import IntegerNetwork


@dataclass
class SynapseCounts:
    """Of one projection.

    events: non-zero inputs. amplitude: sum of their levels.
    synops: weights applied, true fan-out (border and stride included).
    """

    events: int = 0
    amplitude: int = 0
    synops: int = 0


@dataclass
class NeuronCounts:
    """Of one layer of neurons.

    events: non-zero outputs. amplitude: sum of their levels.
    updates: visits of a potential to add the bias, compare and reset: T a neuron.
    """

    events: int = 0
    amplitude: int = 0
    updates: int = 0


@dataclass(frozen=True)
class Counts:
    """Counts by the name of the synapses and of the layer of neurons."""

    synapses: dict[str, SynapseCounts]
    neurons: dict[str, NeuronCounts]


def count(network: IntegerNetwork, images: NDArray[np.uint8] | Tensor) -> Counts:
    """Run `images` (as in `IntegerNetwork.forward`) and count.

    Dense projections (MS-ResNet's potentials) count their non-zero potentials as events.
    """
    counts = Counts({}, {})
    readers: dict[str, list[tuple[SynapseCounts, Tensor]]] = {}
    for layer in network.layers:
        if isinstance(layer, Neurons):
            counts.neurons[layer.name] = NeuronCounts()
    for one in network.synapses:
        entry = counts.synapses[one.name] = SynapseCounts()
        readers.setdefault(one.source, []).append(
            (entry, fan_out(one, network.shape_of(one.source)))
        )

    def observe(name: str, values: Tensor) -> None:
        active = values != 0
        amplitude = int(values.sum(dtype=torch.int64))
        events = int(active.sum())
        for entry, fan in readers.get(name, ()):
            entry.events += events
            entry.amplitude += amplitude
            entry.synops += int((active.sum((0, 1)) * fan).sum())
        if name in counts.neurons:
            neurons = counts.neurons[name]
            neurons.events += events
            neurons.amplitude += amplitude
            neurons.updates += values.numel()

    network.forward(images, observe)
    return counts


def fan_out(synapses: Synapses, shape: Shape) -> Tensor:
    """Weights that an event at each position of an input of `shape` meets, int64 [H, W].

    >>> w = np.ones((2, 1, 3, 3), np.int8)
    >>> fan_out(Synapses("conv", "z", w, padding=1), (1, 2, 3)).tolist()
    [[8, 12, 8], [8, 12, 8]]
    """
    if synapses.weight is None:
        return torch.ones(shape[1:], dtype=torch.int64)
    out, rows, columns = synapses.reach(shape)
    taps = []
    for size, reached, kernel in zip(
        shape[1:], (rows, columns), synapses.weight.shape[2:], strict=True
    ):
        position = np.arange(reached)[:, None] * synapses.stride - synapses.padding
        inside = (position + np.arange(kernel)).ravel()
        inside = inside[(inside >= 0) & (inside < size)]
        taps.append(torch.from_numpy(np.bincount(inside, minlength=size)))
    return out * taps[0][:, None] * taps[1][None, :]
