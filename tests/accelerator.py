"""An accelerator without one: tensors that say they are on the device `meta`, and have values.

Their values lie on the CPU and every operation is done there, but one that gets such a tensor
together with one of the CPU is an error, as on CUDA; so is, where `waits` is False, whatever the
host would have to wait for. Torch's own meta tensors find less: a convolution mixes with them, and
what reads a value can't go on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

THERE = torch.device("meta")
READ = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "_unique2", "bincount")
"""Operations whose result the host waits for."""


class There(Tensor):
    """A tensor on the device, by its values on the CPU."""

    held: Tensor

    @staticmethod
    @torch.inference_mode(False)  # whose tensors a view of an ordinary one could not be
    def __new__(cls, held: Tensor) -> There:
        found = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=THERE,
        )  # fmt: skip
        found.held = held
        return found

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {}, waits=True)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"There({self.held})"


class Accelerator(TorchDispatchMode):
    """While it is on, there is a device `meta` that holds values."""

    waits = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # in inference mode nothing has taken it apart
                return func.decompose(*args, **kwargs)
        return computed(func, args, kwargs, self.waits)


def computed(func: Any, args: Any, kwargs: dict[str, Any], waits: bool) -> Any:
    wrappers: dict[int, There] = {}
    here: list[Tensor] = []

    def down(x: Any) -> Any:
        if isinstance(x, There):
            wrappers[id(x.held)] = x
            return x.held
        if isinstance(x, Tensor) and x.dim():
            here.append(x)
        return torch.device("cpu") if isinstance(x, torch.device) and x == THERE else x

    asked = kwargs.get("device")
    below = tree_map(down, (args, kwargs))
    name = func._schema.name.removeprefix("aten::")
    if wrappers and here and name != "copy_":
        raise RuntimeError(f"{name}: tensors of two devices, {[list(x.shape) for x in here]} here")
    there = bool(wrappers) if asked is None else torch.device(asked) == THERE
    read = not there if name == "_to_copy" else name in READ
    read |= name == "copy_" and not isinstance(args[0], There)
    if wrappers and read and not waits:
        raise RuntimeError(f"{name}: the host waits for the device")

    def up(x: Any) -> Any:
        if not isinstance(x, Tensor) or any(x is one for one in here):
            return x
        return wrappers[id(x)] if id(x) in wrappers else There(x) if there else x

    return tree_map(up, func(*below[0], **below[1]))
