"""A stem that starts from the data: principal components of its input patches, in both signs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

EPSILON = 5e-4
"""Added to the eigenvalues (inputs of unit variance), so that no noise is blown up."""


def whiten_(conv: nn.Conv2d, batches: Iterable[Tensor]) -> None:
    """Set the filters of `conv` to the leading whitened eigenvectors of patches of images.

    Half of the filters are the components, the other half their negatives, since neurons pass one
    sign only; filters beyond twice the patch size keep their values (after cifar10-airbench,
    Jordan 2024, arXiv 2404.00498, section 3.2).

    Args:
        conv: the stem's convolution, C_in x k x k -> C_out.
        batches: normalised images [B, C_in, H, W], or event frames [T, B, C_in, H, W].
    """
    height, width = conv.weight.shape[2:]
    size = conv.weight[0].numel()
    moments, summed = torch.zeros(size, size, dtype=torch.float64), 0
    for batch in batches:
        for image in batch.flatten(0, -4):  # one by one: an image has as many patches as pixels
            patches = image.unfold(1, height, 1).unfold(2, width, 1)
            patches = patches.permute(1, 2, 0, 3, 4).reshape(-1, size).double()
            moments += patches.T @ patches
            summed += len(patches)
    values, vectors = torch.linalg.eigh(moments / summed)
    count = min(conv.out_channels // 2, len(values))
    leading = (vectors / torch.sqrt(values + EPSILON)).T.flip(0)[:count]
    filters = leading.reshape(count, *conv.weight.shape[1:]).to(conv.weight.dtype)
    with torch.no_grad():
        conv.weight[: 2 * count] = torch.cat((filters, -filters))
