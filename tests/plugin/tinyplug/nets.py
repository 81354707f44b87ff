"""A small network with neurons, or with ReLUs for the ANN."""

from torch import nn

from multispike import MultiLevelIF


def build(num_classes, in_channels, neuron="multilevel", levels=4):
    def activation() -> nn.Module:
        if neuron == "relu":
            return nn.ReLU()
        return MultiLevelIF(levels, threshold=2.0, surrogate="clip", v_init=0.5)

    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1), nn.BatchNorm2d(8), activation(),
        nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), activation(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes),
    )  # fmt: skip
