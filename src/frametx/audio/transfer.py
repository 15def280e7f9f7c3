"""Small tensors to the device of the large ones, without waiting for that device."""

import torch
from jaxtyping import Shaped
from torch import Tensor


def on_device(values: Shaped[Tensor, "*any"], device: torch.device) -> Shaped[Tensor, "*any"]:
    """The same values on a device; from the CPU to a GPU neither of the two waits.

    Only a copy out of page-locked memory runs behind the kernels that are queued already.
    """
    if values.device == device:
        return values
    if values.device.type == "cpu" and device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
