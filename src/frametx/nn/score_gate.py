"""A learned choice, score by score, between two streams of attention scores.

The gate is two 3-d convolutions over (heads, query frames, key frames), with maps as channels.
Their kernels reach one head to either side, so the same sum is a 2-d convolution over (query, key)
whose channels are all (map, head) pairs and whose weight is zero for heads further than one apart:
a band.

    W[(o, h), (c, g)] = w[o, c, g - h + 1]    for |g - h| <= 1, else 0

It computes zeros, and is still some thirty times faster on a CPU, where 3-d convolution is slow.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.residual_scores import ResidualScores
from frametx.nn.squared_relu import squared_relu


class ScoreGate(nn.Module):
    """Blend previous scores with the skip's: g * previous + (1 - g) * skip, one g for all maps.

    Args:
        num_channels: maps of each stream.
    """

    def __init__(self, *, num_channels: int) -> None:
        super().__init__()
        # the parameters of two Conv3d layers, which also draw their first values
        self.conv_in = nn.Conv3d(2 * num_channels, num_channels, 3, padding=1)
        self.conv_out = nn.Conv3d(num_channels, 1, 3, padding=1)

    def forward(self, previous: ResidualScores, skip: ResidualScores) -> ResidualScores:
        """Both streams decide; one gate serves all maps. It needs all scores written down."""
        blend = self._blend(previous.materialised(), skip.materialised())
        return ResidualScores(skip.query, matrix=blend)

    def _blend(
        self,
        previous: Float[Tensor, "B C H T T"],
        skip: Float[Tensor, "B C H T T"],
    ) -> Float[Tensor, "B C H T T"]:
        heads = previous.shape[2]
        hidden = torch.cat([previous, skip], 1).flatten(1, 2)
        hidden = squared_relu(_banded_conv2d(hidden, self.conv_in, num_heads=heads))
        gate = _banded_conv2d(hidden, self.conv_out, num_heads=heads).sigmoid()
        return torch.lerp(skip, previous, gate.unsqueeze(1))


def _banded_conv2d(
    x: Float[Tensor, "B C_in T T"], conv: nn.Conv3d, *, num_heads: int
) -> Float[Tensor, "B C_out T T"]:
    """The 3-d convolution `conv` of maps x heads, given as channels that count (map, head)."""
    heads = torch.arange(num_heads, device=x.device)
    reach = torch.arange(-1, 2, device=x.device)
    band = (heads + reach[:, None, None] == heads[:, None]).mT.to(conv.weight.dtype)
    weight = torch.einsum("ockyx,khg->ohcgyx", conv.weight, band).flatten(2, 3).flatten(0, 1)
    assert conv.bias is not None
    if x.device.type == "cpu" and not torch.compiler.is_exporting():
        x = x.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight, conv.bias.repeat_interleave(num_heads), padding=1)
