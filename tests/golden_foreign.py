"""Networks that this project did not write, for the goldens: plain PyTorch, home-made neurons.

Kept apart from those of other tests, which may change while the goldens stay.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """A residual block: functional sums, one ReLU module used twice."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else None

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.down is None else self.down(x)
        return self.relu(out)


class PlainResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.Sequential(Block(4, 4, 1), Block(4, 8, 2))
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = self.blocks(F.relu(self.stem(x)))
        return self.fc(torch.flatten(F.avg_pool2d(x, x.shape[-1]), 1))


class PlainVgg(nn.Module):
    """Groups, dilation, strides, two kinds of pooling, two branches that are concatenated."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=2, dilation=2)
        self.left = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4)
        self.right = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 4, 1))
        self.last = nn.Linear(12, 5)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)
        return self.last(F.adaptive_avg_pool2d(x, 1).flatten(1))


class StepNeuron(nn.Module):
    """As snnTorch: (input, potential) -> (spike, potential), one timestep a call."""

    def __init__(self, beta):
        super().__init__()
        self.register_buffer("beta", torch.tensor(beta))

    def forward(self, x, v):
        v = self.beta * v + x
        spike = (v > 1.0).float()
        return spike, v - spike


class StepModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fire1 = StepNeuron(0.5)
        self.fc = nn.Linear(4 * 16, 10)
        self.fire2 = StepNeuron(1.0)

    def forward(self, x):
        v1, v2, sent = torch.zeros(1), torch.zeros(1), []
        for _ in range(3):
            spikes, v1 = self.fire1(F.max_pool2d(self.conv(x), 2), v1)
            spikes, v2 = self.fire2(self.fc(spikes.flatten(1)), v2)
            sent.append(spikes)
        return torch.stack(sent)


class Surrogate(nn.Module):
    def forward(self, x):
        return (x >= 0).to(x)


class HiddenState(nn.Module):
    """As SpikingJelly: [T, B, ...], the potential stays inside and must be reset by hand."""

    def __init__(self, levels):
        super().__init__()
        self.levels, self.threshold, self.v = levels, 0.75, 0.0
        self.surrogate = Surrogate()

    def reset(self):
        self.v = 0.0

    def forward(self, x):
        sent = []
        for x_t in x:
            self.v = self.v + x_t
            z = sum(
                self.surrogate(self.v - self.threshold * k / self.levels)
                for k in range(1, self.levels + 1)
            )
            spike = z * (self.threshold / self.levels)
            self.v = self.v - spike
            sent.append(spike)
        return torch.stack(sent)


class MergedTime(nn.Module):
    """A layer for [T, B, ...] tensors."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def hidden_state(levels):
    return nn.Sequential(
        MergedTime(nn.Conv2d(3, 4, 3, padding=1, bias=False)),
        MergedTime(nn.BatchNorm2d(4)),
        HiddenState(levels),
        MergedTime(nn.AvgPool2d(2)),
        MergedTime(nn.Conv2d(4, 4, 3)),
        HiddenState(levels),
        nn.Flatten(2),
        nn.Linear(16, 3),
    )


class Inline(nn.Module):
    """Neurons written out in the forward."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(64, 3)

    def forward(self, x):
        v1, v2, out = 0.0, 0.0, 0.0
        for _ in range(2):
            v1 = 0.5 * v1 + self.conv1(x)
            s1 = (v1 >= 0.25).float()
            v1 = v1 - s1 * 0.25
            v2 = v2 + self.conv2(s1)
            s2 = (v2 >= 0.25).float()
            v2 = v2 - s2 * 0.25
            out = out + self.fc(s2.flatten(1))
        return out / 2


class Uncounted(nn.Module):
    """Operations that no rule knows, or that are named: attention, norm, SiLU, upsampling."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3), nn.LayerNorm(6), nn.SiLU()
        self.up, self.last = nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.act(self.norm(self.conv(x)))
        x = torch.softmax(x @ x.transpose(-1, -2), -1) @ x
        return self.last(self.up(x)).flatten(1)


class Tokens(nn.Module):
    """A residual block over the pixels of an image, as in a vision transformer."""

    def __init__(self):
        super().__init__()
        self.patches, self.mix, self.head = nn.Conv2d(3, 6, 2, 2), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head((x + self.mix(x)).mean(1))


class Direct(nn.Module):
    """Our neurons in a direct-coded network of somebody else's, its time first or second."""

    def __init__(self, neuron, first):
        super().__init__()
        self.first = first
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3)
        self.fc, self.neuron = nn.Linear(108, 2), neuron(1, timesteps=4)
        self.last = neuron(2, threshold=0.5, timesteps=4)

    def forward(self, x):
        time = 0 if self.first else 1
        x = torch.stack([x] * 4, time)
        leading = x.shape[:2]
        spikes = self.spikes(self.neuron, self.stem(x.flatten(0, 1)).unflatten(0, leading))
        spikes = self.spikes(self.last, self.conv(spikes.flatten(0, 1)).unflatten(0, leading))
        return self.fc(spikes.flatten(2)).mean(time)

    def spikes(self, neuron, x):
        return neuron(x) if self.first else neuron(x.transpose(0, 1)).transpose(0, 1)


class Stepped(nn.Module):
    """Our neurons step by step, over an image that is normalised at every step."""

    def __init__(self, neuron):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.neuron, self.fc = neuron(4, beta=0.5), nn.Linear(144, 2)

    def forward(self, x):
        out, v = 0, None
        for _ in range(3):
            spikes, v = self.neuron.step(self.conv((x - 0.5) / 0.25), v)
            out = out + self.fc(spikes.flatten(1))
        return out


class Transposed(nn.Module):
    """Event frames [B, T, C, H, W], time first inside."""

    def __init__(self, neuron):
        super().__init__()
        self.conv, self.neuron = nn.Conv2d(3, 4, 3), neuron(4, threshold=0.5, timesteps=2)
        self.head = nn.Linear(144, 3)

    def forward(self, x):
        x = x.transpose(0, 1)
        x = self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.head(self.neuron(x).flatten(2)).mean(0)
