"""What several of the plain networks are made of.

Letters: B batch, C maps, F features of a frame, T frames, H heads, D features of a head. Everything
is B C F T, so whatever acts on features stands between two transposes. The attributes carry the
names of the originals' weights; what each holds is said where the name does not tell.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

MAX_FRAMES = 4096  # of the table of sinusoids


def squared_relu(x: Tensor) -> Tensor:
    return torch.relu(x) ** 2


class MultichannelLinear(nn.Module):
    """A matrix over the features of each map (`weight_pw`), then one over the maps (`weight_dw`).

    Each is there if it changes a size, or is asked for.
    """

    def __init__(
        self,
        *,
        channels: int,
        features: int,
        channels_out: int | None = None,
        features_out: int | None = None,
        positionwise: bool = True,
        depthwise: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        channels_out, features_out = channels_out or channels, features_out or features
        bound = 1 / math.sqrt(features)
        self.weight_pw = self.weight_dw = self.bias_pw = None
        if positionwise or features != features_out:
            self.weight_pw = _uniform(channels, features_out, features, bound=bound)
        if bias:
            self.bias_pw = _uniform(channels, features_out, 1, bound=bound)
        if depthwise or channels != channels_out:
            self.weight_dw = _uniform(channels_out, channels, bound=1 / math.sqrt(channels))

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F_out T"]:
        if self.weight_pw is not None:
            x = torch.matmul(x.transpose(2, 3), self.weight_pw.transpose(1, 2)).transpose(2, 3)
        if self.bias_pw is not None:
            x = x + self.bias_pw
        if self.weight_dw is not None:
            x = torch.matmul(x.transpose(1, 3), self.weight_dw.T).transpose(1, 3)
        return x


def _uniform(*shape: int, bound: float) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


def out_matrix(*, channels: int, channels_out: int, fan_in: int) -> nn.Parameter:
    """The last layer of the older networks: a bare matrix over the maps."""
    return _uniform(channels_out, channels, bound=1 / math.sqrt(fan_in))


class MultichannelLayerNorm(nn.Module):
    """Layer norm over the features of a frame; every map has its own weight and bias."""

    def __init__(self, *, channels: int, features: int, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels, 1, features))
        self.bias = nn.Parameter(torch.zeros(channels, 1, features))

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C F T"]:
        x = x.transpose(2, 3)
        normalised = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        return (normalised * self.weight + self.bias).transpose(2, 3)


class FrameNorm(nn.Module):
    """Layer norm over the features of a frame; all maps share weight and bias."""

    def __init__(self, *, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C F T"]:
        return self.norm(x.transpose(2, 3)).transpose(2, 3)


class Rotary(nn.Module):
    """Turns the leading pairs (0, 1), (2, 3), ... of a token's vector by position times frequency.

    Args:
        features: nominal size; `features // 2` pairs are turned, however long the vectors are.
    """

    freqs: Tensor

    def __init__(self, *, features: int) -> None:
        super().__init__()
        pairs = torch.arange(features // 2, dtype=torch.float32)
        self.register_buffer("freqs", 1 / 10_000 ** (2 * pairs / max(features, 1)))

    def forward(self, x: Float[Tensor, "*tokens N D"]) -> Float[Tensor, "*tokens N D"]:
        if len(self.freqs) == 0:
            return x
        positions = torch.arange(x.shape[-2], dtype=torch.float32, device=x.device)
        angles = positions[:, None] * self.freqs
        cosine, sine = angles.cos(), angles.sin()
        turned = x[..., : 2 * len(self.freqs)]
        even, odd = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], -1)
        return torch.cat([turned.flatten(-2), x[..., 2 * len(self.freqs) :]], -1)


def split_heads(x: Float[Tensor, "B C F T"], num_heads: int) -> Float[Tensor, "B C H T D"]:
    """Heads are contiguous bands of features, tokens are frames."""
    batch, channels, _, frames = x.shape
    return x.transpose(2, 3).reshape(batch, channels, frames, num_heads, -1).transpose(2, 3)


def merge_heads(x: Float[Tensor, "B C H T D"]) -> Float[Tensor, "B C F T"]:
    return x.transpose(2, 3).flatten(3).transpose(2, 3)


def attend(
    q: Float[Tensor, "*heads T D"],
    k: Float[Tensor, "*heads S D"],
    v: Float[Tensor, "*heads S D"],
    *,
    scale: float,
    scores: Float[Tensor, "*heads T S"] | None = None,
) -> tuple[Float[Tensor, "*heads T D"], Float[Tensor, "*heads T S"]]:
    """Attention, and its scores before the softmax with `scores` of another one added."""
    products = torch.matmul(q, k.transpose(-1, -2)) / scale
    if scores is not None:
        products = products + scores
    return torch.matmul(products.softmax(-1), v), products


class MultichannelAttention(nn.Module):
    """Attention between the frames of each map, with whatever projections a variant has.

    Args:
        projection: makes the projection to queries (`False`), or to keys or values (`True`), which
            read a memory where there is one.
        out: the projection behind the heads.
        features: of a frame of the queries; the scores are divided by its root.
    """

    def __init__(
        self,
        *,
        projection: Callable[[bool], nn.Module],
        out: nn.Module,
        num_heads: int,
        features: int,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = math.sqrt(features)
        self.embedding = Rotary(features=features // num_heads)
        self.q_proj = projection(False)
        self.k_proj = projection(True)
        self.v_proj = projection(True)
        self.o_proj = out

    def forward(
        self,
        x: Float[Tensor, "B C F T"],
        *,
        memory: Float[Tensor, "B C_mem F_mem S"] | None = None,
        scores: Float[Tensor, "B A H T S"] | None = None,
    ) -> tuple[Float[Tensor, "B A F T"], Float[Tensor, "B A H T S"]]:
        memory = x if memory is None else memory
        q = self.embedding(split_heads(self.q_proj(x), self.num_heads))
        k = self.embedding(split_heads(self.k_proj(memory), self.num_heads))
        v = split_heads(self.v_proj(memory), self.num_heads)
        attended, scores = attend(q, k, v, scale=self.scale, scores=scores)
        return self.o_proj(merge_heads(attended)), scores


def attention_after_linear(
    *, channels: int, num_heads: int, features: int
) -> MultichannelAttention:
    """Attention of AsymUNetMCT and V7: a linear layer, then three taps over frames."""

    def projection(_reads_memory: bool) -> nn.Module:
        return nn.Sequential(
            MultichannelLinear(channels=channels, features=features),
            nn.Conv2d(channels, channels, (1, 3), padding=(0, 1)),
        )

    out = MultichannelLinear(channels=channels, features=features)
    return MultichannelAttention(
        projection=projection, out=out, num_heads=num_heads, features=features
    )


class ResidualBlock(nn.Module):
    """Norm and two convolutions; beside them a 1x1 convolution where a size changes.

    Args:
        norm: of what enters; the identity takes it without the norm.
        stride: (features, frames) of the second convolution.
        is_projected: a 1x1 convolution beside the branch even where no size changes.
    """

    def __init__(
        self,
        *,
        norm: nn.Module,
        channels: int,
        channels_out: int,
        activation: Callable[[Tensor], Tensor] = squared_relu,
        kernel_size: int = 3,
        stride: tuple[int, int] = (1, 1),
        dropout: float = 0.0,
        is_projected: bool = False,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.activation = activation
        self.norm = norm
        self.conv1 = nn.Conv2d(channels, channels_out, kernel_size, 1, padding, bias=False)
        self.conv2 = nn.Conv2d(channels_out, channels_out, kernel_size, stride, padding, bias=False)
        self.dropout = nn.Dropout(dropout)
        changes = channels != channels_out or stride != (1, 1)
        self.identity = (
            nn.Conv2d(channels, channels_out, 1, stride, bias=False)
            if changes or is_projected
            else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F_out T_out"]:
        branch = self.conv2(self.activation(self.conv1(self.norm(x))))
        return self.identity(x) + self.dropout(branch)


class LeakyResidualBlock(nn.Module):
    """The residual block of V9 and V10: the first convolution keeps the maps, relus leak."""

    def __init__(
        self,
        *,
        norm: nn.Module,
        channels: int,
        channels_out: int,
        stride: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        self.norm1 = norm
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels_out, 3, stride, padding=1, bias=False)
        changes = channels != channels_out or stride != (1, 1)
        self.idt = (
            nn.Conv2d(channels, channels_out, 1, stride, bias=False) if changes else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F_out T_out"]:
        return self.idt(x) + self.conv2(F.leaky_relu(self.conv1(self.norm1(x))))


def resized_to(x: Float[Tensor, "B C _F _T"], skip: Float[Tensor, "B D F T"]) -> Tensor:
    """`x` stretched to the features and frames of `skip`."""
    return F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=True)


class FrameEncoder(nn.Module):
    """A residual block under the name that the originals give it."""

    def __init__(self, *, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F_out T"]:
        return self.body(x)


class FrameDecoder(nn.Module):
    """Twice the features, then the maps of the encoder beside them, then a residual block.

    Args:
        body: the residual block.
        rounds: go through half precision and bfloat16 while stretching, as released V8 does.
    """

    def __init__(self, *, body: nn.Module, rounds: bool = False) -> None:
        super().__init__()
        self.body = body
        self.rounds = rounds

    def forward(
        self, x: Float[Tensor, "B C _F T"], skip: Float[Tensor, "B D F T"]
    ) -> Float[Tensor, "B C_out F T"]:
        x = x.half() if self.rounds else x
        x = F.interpolate(x, scale_factor=(2, 1), mode="bilinear", align_corners=True)
        x = x.bfloat16() if self.rounds else x
        return self.body(torch.cat([x, skip], 1))


def sinusoids(features: int) -> Float[Tensor, "1 1 F max_frames"]:
    """Sine and cosine over frames, in turn, slower from pair to pair of features."""
    frequencies = torch.exp(torch.arange(0, features, 2).float() * (-math.log(10_000) / features))
    angles = frequencies[:, None] * torch.arange(MAX_FRAMES).float()
    return torch.stack([angles.sin(), angles.cos()], 1).flatten(0, 1)[None, None]


class ConvolutionalEmbedding(nn.Module):
    """One map that says where in the song and in the spectrum a bin is.

    Nine levels of half the features and frames each; every level gives one map, stretched to the
    full size, and `out` makes one of the nine.

    Args:
        out: from nine maps to one.
        kernel_size: of the convolutions that read a level.
        has_sinusoids: a table of sinusoids is read beside the input; it ends at 4096 frames.
    """

    pe: Tensor

    def __init__(
        self,
        *,
        channels: int,
        features: int,
        out: nn.Module,
        kernel_size: int = 11,
        has_sinusoids: bool = True,
        eps: float = 1e-8,
        activation: Callable[[Tensor], Tensor] = squared_relu,
    ) -> None:
        super().__init__()
        if features % 256:
            raise ValueError(
                f"{features} features cannot be halved eight times: take an n_fft that is a "
                "multiple of 512"
            )
        self.has_sinusoids = has_sinusoids
        if has_sinusoids:
            self.register_buffer("pe", sinusoids(features))
        widths = [channels + has_sinusoids, *(channels * width for width in range(2, 17, 2))]
        self.num_levels = len(widths)

        def block(i: int, channels_out: int, kernel_size: int, stride: int) -> nn.Module:
            norm = MultichannelLayerNorm(channels=widths[i], features=features >> i, eps=eps)
            return ResidualBlock(
                norm=norm,
                channels=widths[i],
                channels_out=channels_out,
                activation=activation,
                kernel_size=kernel_size,
                stride=(stride, stride),
            )

        for i in range(self.num_levels):
            self.add_module(f"extract{i + 1}", block(i, 1, kernel_size, 1))
        for i in range(self.num_levels - 1):
            self.add_module(f"encoder{i + 1}", block(i, widths[i + 1], 3, 2))
        self.out = out

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B 1 F T"]:
        h = x
        if self.has_sinusoids:
            table = self.pe[..., : x.shape[-1]]
            h = torch.cat([x, table.expand(len(x), -1, -1, -1)], 1)
        maps: list[Tensor] = []
        for i in range(1, self.num_levels + 1):
            e = getattr(self, f"extract{i}")(h)
            maps.append(e if i == 1 else resized_to(e, x))
            if i < self.num_levels:
                h = getattr(self, f"encoder{i}")(h)
        return self.out(torch.cat(maps, 1))


def joining_block(
    features: int, activation: Callable[[Tensor], Tensor] = squared_relu
) -> nn.Module:
    """From the nine maps of the embedding to one."""
    return ResidualBlock(
        norm=MultichannelLayerNorm(channels=9, features=features),
        channels=9,
        channels_out=1,
        activation=activation,
        kernel_size=1,
    )


def embed(channels: int, maps: int) -> nn.Module:
    """From the maps of the U-Net to those of a transformer; nothing where they are as many."""
    return nn.Identity() if channels == maps else nn.Conv2d(channels, maps, 1)
