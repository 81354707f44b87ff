"""Stripes, upright or lying."""

import torch

from multispike.datasets.dataset import Dataset, Split


def load(request):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(160) % 2
    stripes = (torch.arange(8) % 2 * 255).expand(8, 8)
    images = torch.where(labels.view(-1, 1, 1, 1) == 1, stripes, stripes.T).clone()
    images = (images * torch.rand(160, 1, 8, 8, generator=generator)).to(torch.uint8)
    halves = [
        Split(images[part].contiguous(), labels[part]) for part in (slice(120), slice(120, None))
    ]
    return Dataset("stripes", *halves, classes=("lying", "upright"), mean=(0.25,), std=(0.3,))
