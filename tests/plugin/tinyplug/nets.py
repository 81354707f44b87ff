"""A small network with neurons, or with ReLUs for the ANN."""

from torch import nn

from multispike import MultiLevelIF


class Spike(nn.Module):
    """Graded spikes in one timestep, [B, ...] -> [B, ...]."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.neuron = MultiLevelIF(levels, threshold=2.0, surrogate="clip", v_init=0.5)

    def forward(self, x):
        return self.neuron(x[None])[0]


def build(num_classes, in_channels, neuron="multilevel", levels=4):
    def activation() -> nn.Module:
        return nn.ReLU() if neuron == "relu" else Spike(levels)

    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1), nn.BatchNorm2d(8), activation(),
        nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), activation(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes),
    )  # fmt: skip
