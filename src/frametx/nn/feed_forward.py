"""The feed-forward of a transformer: over the features of a frame, or over the maps."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.convolve import convolve_twice
from frametx.nn.multichannel_linear import MultichannelLinear, mix_maps
from frametx.nn.recomputed_feed_forward import recomputed_feed_forward


class LinearFeedForward(nn.Module):
    """Every map's frames to more features and back.

    Args:
        num_channels: maps that come in.
        num_features: features of a frame, in and out.
        hidden_features: in between.
        activation: in between.
        out_channels: maps that go out; None is as many as come in.
        mixes_hidden: the first layer mixes the maps, before the activation.
        mixes_output: the second layer mixes the maps; implied where their number changes.
        keeps_hidden: False makes the hidden features again in the backward pass, which takes less
            memory, and less time too where they are many times as many as come in; not possible
            with `mixes_hidden`.
    """

    def __init__(
        self,
        *,
        num_channels: int,
        num_features: int,
        hidden_features: int,
        activation: Callable[[Tensor], Tensor],
        out_channels: int | None = None,
        mixes_hidden: bool = False,
        mixes_output: bool = False,
        keeps_hidden: bool = True,
    ) -> None:
        super().__init__()
        assert keeps_hidden or not mixes_hidden, "maps are made again one by one, so none are mixed"
        self.keeps_hidden = keeps_hidden
        self.activation = activation
        self.expand = MultichannelLinear(
            num_channels=num_channels,
            in_features=num_features,
            out_features=hidden_features,
            mix_channels=mixes_hidden,
        )
        self.contract = MultichannelLinear(
            num_channels=num_channels,
            in_features=hidden_features,
            out_features=num_features,
            out_channels=out_channels,
            mix_channels=mixes_output,
        )

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C_out T F"]:
        """Expand, activate, contract."""
        if self.keeps_hidden:
            return self.contract(self.activation(self.expand(x)))
        y = recomputed_feed_forward(
            x.transpose(0, 1).flatten(1, 2),
            self.expand.weight,
            self.contract.weight,
            self.activation,
        )
        y = y.unflatten(1, (x.shape[0], -1)).transpose(0, 1)
        return y if self.contract.mixing is None else mix_maps(y, self.contract.mixing)


class ConvolutionalFeedForward(nn.Module):
    """To more maps and back, by convolutions over neighbouring frames and bins.

    Args:
        in_channels: maps that come in.
        hidden_channels: maps in between.
        out_channels: maps that go out.
        activation: in between.
        has_bias: of both convolutions.
        kernel_size: of both; odd.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        activation: Callable[[Tensor], Tensor],
        has_bias: bool,
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        size = {"kernel_size": kernel_size, "padding": kernel_size // 2, "bias": has_bias}
        self.activation = activation
        self.expand = nn.Conv2d(in_channels, hidden_channels, **size)
        self.contract = nn.Conv2d(hidden_channels, out_channels, **size)

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C_out T F"]:
        """Expand, activate, contract."""
        return convolve_twice(x, self.expand, self.activation, self.contract)
