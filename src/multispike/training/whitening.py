"""A stem that starts from the data: principal components of its input patches, in both signs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 5e-4
"""Added to the eigenvalues (inputs of unit variance), so that no noise is blown up."""


def whiten_(conv: nn.Conv2d, images: Tensor) -> None:
    """Set the filters of `conv` to the leading whitened eigenvectors of patches of `images`.

    Half of the filters are the components, the other half their negatives, since neurons pass one
    sign only; filters beyond twice the patch size keep their values (after cifar10-airbench,
    Jordan 2024, arXiv 2404.00498, section 3.2).

    Args:
        conv: the stem's convolution, C_in x k x k -> C_out.
        images: normalised [B, C_in, H, W].
    """
    height, width = conv.weight.shape[2:]
    patches = images.unfold(2, height, 1).unfold(3, width, 1)
    patches = patches.transpose(1, 3).reshape(-1, conv.weight[0].numel()).double()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    count = min(conv.out_channels // 2, len(values))
    leading = (vectors / torch.sqrt(values + EPSILON)).T.flip(0)[:count]
    filters = leading.reshape(count, *conv.weight.shape[1:]).to(conv.weight.dtype)
    with torch.no_grad():
        conv.weight[: 2 * count] = torch.cat((filters, -filters))
