"""Convolutions of one or two maps on a CPU, by folding neighbouring bins into channels.

CPU kernels pad channels to sixteen, so a convolution of a single map does a sixteenth of the work
it pays for, and its backward pass is slower still. Sixteen neighbouring bins of one map can stand
in for the channels, which costs no copy, because the features come last:

    B 1 T F  =  B 16 T F/16, channels last

Output bin o of a block then reads the block itself and one neighbour on each side, through a kernel
that holds the original taps in a band. The numbers are the same; with two maps of 256 frames and
1024 bins, forward and backward of an 11x11 depthwise kernel take a quarter of the time, of a 3x3
kernel an eighteenth.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

BLOCK = 16  # bins folded into channels


def depthwise_conv2d(
    x: Float[Tensor, "B C T F"],
    weight: Float[Tensor, "PC 1 K_t K_f"],
    bias: Float[Tensor, " PC"] | None,
) -> Float[Tensor, "B PC T F"]:
    """Convolve every map with odd-sized kernels of its own, same size out.

    Kernel p * C + c is the p-th of map c; most often there is one for every map. A map's kernels
    run together, and the map is not copied for them.
    """
    num_channels = x.shape[1]
    weight = weight.unflatten(0, (-1, num_channels))
    bias = None if bias is None else bias.unflatten(0, (-1, num_channels))
    if can_fold(x, weight[0]):
        maps = [
            folded_conv2d(x[:, c : c + 1], weight[:, c], None if bias is None else bias[:, c])
            for c in range(num_channels)
        ]
        return maps[0] if len(maps) == 1 else torch.stack(maps, 2).flatten(1, 2)
    padding = (weight.shape[-2] // 2, weight.shape[-1] // 2)
    y = F.conv2d(
        x,
        weight.transpose(0, 1).flatten(0, 1),
        None if bias is None else bias.T.flatten(),
        padding=padding,
        groups=num_channels,
    )
    return y.unflatten(1, (num_channels, -1)).transpose(1, 2).flatten(1, 2)


def can_fold(x: Float[Tensor, "B C T F"], weight: Float[Tensor, "C_out C_in K_t K_f"]) -> bool:
    """Whether folding is possible, and made for the device the data is on."""
    if x.device.type != "cpu" or torch.compiler.is_exporting():  # who runs it is not known yet
        return False
    return x.shape[-1] % BLOCK == 0 and weight.shape[-1] // 2 <= BLOCK


def folded_conv2d(
    x: Float[Tensor, "B C T F"],
    weight: Float[Tensor, "C_out C K_t K_f"],
    bias: Float[Tensor, " C_out"] | None = None,
) -> Float[Tensor, "B C_out T F"]:
    """`conv2d` of an odd-sized kernel, same size out, with blocks of bins folded into channels."""
    banded = torch.einsum("oigk,dctk->docitg", _band(weight), weight).flatten(2, 3).flatten(0, 1)
    folded = x.unflatten(-1, (-1, BLOCK)).permute(0, 1, 4, 2, 3).flatten(1, 2)
    y = F.conv2d(
        folded.contiguous(memory_format=torch.channels_last),
        banded.contiguous(memory_format=torch.channels_last),
        None if bias is None else bias.repeat_interleave(BLOCK),
        padding=(weight.shape[2] // 2, 1),
    )
    return y.unflatten(1, (-1, BLOCK)).permute(0, 1, 3, 4, 2).flatten(-2)


def _band(weight: Float[Tensor, "C_out C_in K_t K_f"]) -> Float[Tensor, "O I 3 K_f"]:
    """1 where tap k of output bin o falls on bin i of the previous, the same or the next block."""
    num_taps = weight.shape[-1]
    bins = torch.arange(BLOCK, device=weight.device)
    taps = torch.arange(num_taps, device=weight.device) - num_taps // 2
    blocks = torch.arange(-1, 2, device=weight.device)
    read = bins[:, None] + taps  # which bin, counted from the start of the block
    offered = bins[:, None] + BLOCK * blocks
    return (offered[None, :, :, None] == read[:, None, None, :]).to(weight.dtype)
