"""Recorded activity: one evaluation pass, and what every layer read and sent during it.

`record_activity` works on any `nn.Module`; neurons of other libraries are recognised by their
output: {0..N} or {-1, 0, 1} times one step. What it assumes:

- Batch normalisation behind a convolution or linear layer, also with a pooling between, is folded
  into it (a max-pooling commutes with a positive scale; a negative one turns it into a minimum).
- Constant factors, copies, reshapes and means of potentials over time cost nothing.
- ReLUs are free, other activation functions are named in `not_counted`.
- A product of spikes (AND, IAND) touches the same memory as their sum and is recorded as one.
- Of the two inputs of a sum, the one with more layers behind it is the direct path.
- Time comes first in stacked timesteps, [T, B, ...] or [T*B, ...], and in event frames; frames
  [B, T, C, H, W] are recognised, features [B, T, F] are not: they look like tokens.
- Neurons of other libraries leak if they have a `tau` or finite `tau_mem`, or a `beta`, `decay` or
  `leak` below 1; state variables are what they keep or return for each of their outputs.
- A layer that reads the same image at every timestep, also a shifted and scaled one, computes the
  same: it is counted once.
- A layer that runs k times in a forward runs at k timesteps: twins of the network count it once.
- What linear layers, products and sums run over beside timesteps is rows of a sample (tokens,
  windows) or heads; in a network that never spikes and is not given event frames, all of it.
- Weights are not zero: pruned ones count as others do.
"""

from multispike.activity.recording import record_activity

__all__ = ["record_activity"]
