"""The 2-d convolutions of a layer, in the memory layout that is fast for its number of maps.

On a CPU kernels take channels last at least as well as any other layout, and with few maps much
better. What costs is the conversion, in proportion to the maps that come and go. So two
convolutions in a row, whose wide middle nobody else sees, run in channels last as a whole; a single
one does so where few maps go out. One thread, 3x3 kernels, 256 frames of 512 bins, ms of a forward
pass and of forward and backward, conversions included:

    maps             as they lie    channels last
    2 ->  2 ->  8       6    38         2    10
    9 -> 36 ->  8      60   154        28    79
   11 -> 44 ->  8      74   178        34   130
   31 -> 31 ->  8      45   138        44   120
    9 ->  3             4    22         4     9
   31 ->  8            19    51        21    48
   31 -> 31            27    92        42   110

From some sixty maps on both layouts are equal within 5 %, also for a pair.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.folded_conv import can_fold, folded_conv2d
from frametx.nn.pointwise_conv import pointwise_conv

_FEW_MAPS = 16


def convolve(
    x: Float[Tensor, "B C T F"],
    conv: nn.Conv2d,
    *,
    weight: Float[Tensor, "D C K_t K_f"] | None = None,
) -> Float[Tensor, "B D T_out F_out"]:
    """Apply `conv`, with a kernel made of its own if one is given."""
    weight = conv.weight if weight is None else weight
    if _is_pointwise(conv):
        return pointwise_conv(x, weight.flatten(1), conv.bias)
    if _folds(x, conv):
        return folded_conv2d(x, weight, conv.bias)
    if _prefers_channels_last(x) and len(weight) <= _FEW_MAPS:
        x = _ChannelsLast.apply(x)
    return F.conv2d(x, weight, conv.bias, conv.stride, conv.padding).contiguous()


def convolve_twice(
    x: Float[Tensor, "B C T F"],
    first: nn.Conv2d,
    activation: Callable[[Tensor], Tensor],
    second: nn.Conv2d,
) -> Float[Tensor, "B D T_out F_out"]:
    """Apply `first`, an activation that looks at every number alone, and `second`."""
    special = (_is_pointwise(conv) or _folds(x, conv) for conv in (first, second))
    if not _prefers_channels_last(x) or any(special):
        return convolve(activation(convolve(x, first)), second)
    x = _ChannelsLast.apply(x)
    x = activation(F.conv2d(x, first.weight, first.bias, first.stride, first.padding))
    return F.conv2d(x, second.weight, second.bias, second.stride, second.padding).contiguous()


class _ChannelsLast(torch.autograd.Function):
    """To channels last, and the gradient back from it.

    A gradient left in channels last would meet tensors that are not, in the norm before: on mixed
    layouts products and sums take several times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].contiguous()


def _prefers_channels_last(x: Float[Tensor, "B C T F"]) -> bool:
    """On a CPU; what is exported is laid out by whoever runs it."""
    return x.device.type == "cpu" and not torch.compiler.is_exporting()


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == conv.stride == (1, 1)


def _folds(x: Float[Tensor, "B C T F"], conv: nn.Conv2d) -> bool:
    """A single map that goes out is folded, see `folded_conv`."""
    return conv.out_channels == 1 and conv.stride == (1, 1) and can_fold(x, conv.weight)
