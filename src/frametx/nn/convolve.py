"""The 2-d convolution of a layer, in the form that is fast for its number of maps."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.folded_conv import can_fold, folded_conv2d
from frametx.nn.pointwise_conv import pointwise_conv


def convolve(
    x: Float[Tensor, "B C T F"],
    conv: nn.Conv2d,
    *,
    weight: Float[Tensor, "D C K_t K_f"] | None = None,
) -> Float[Tensor, "B D T_out F_out"]:
    """Apply `conv`, with a kernel made of its own if one is given.

    On a CPU a single map is folded, and few maps are faster in channels last, the conversion
    included, backward above all; from some twenty on, the conversion costs more than it gains.
    """
    weight = conv.weight if weight is None else weight
    if conv.kernel_size == conv.stride == (1, 1):
        return pointwise_conv(x, weight.flatten(1), conv.bias)
    if x.device.type == "cpu":
        if conv.out_channels == 1 and conv.stride == (1, 1) and can_fold(x, weight):
            return folded_conv2d(x, weight, conv.bias)
        if x.shape[1] <= 16:
            x = x.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight, conv.bias, conv.stride, conv.padding).contiguous()
