"""V7: AsymUNetMCT's U-Net with conventional transformers, also at the bottom, and no gates."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import (
    ConvolutionalEmbedding,
    FrameDecoder,
    FrameEncoder,
    MultichannelLayerNorm,
    MultichannelLinear,
    ResidualBlock,
    attention_after_linear,
    embed,
    joining_block,
)

WIDTHS = (1, 2, 4, 6, 8, 10, 12, 14, 16)


class EncoderTransformer(nn.Module):
    def __init__(
        self,
        *,
        channels: int,
        maps: int,
        features: int,
        num_heads: int,
        expansion: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embed = embed(channels, maps)
        self.norm1 = MultichannelLayerNorm(channels=maps, features=features)
        self.attn = attention_after_linear(channels=maps, num_heads=num_heads, features=features)
        self.norm2 = MultichannelLayerNorm(channels=maps, features=features)
        self.conv1 = MultichannelLinear(channels=maps, features=features, features_out=expansion)
        self.conv2 = MultichannelLinear(channels=maps, features=expansion, features_out=features)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "B C F T"], scores: Float[Tensor, "B A H T T"] | None
    ) -> tuple[Tensor, Tensor]:
        h = self.embed(x)
        z, total = self.attn(self.norm1(h), scores=scores)
        h = h + self.dropout(z)
        h = h + self.dropout(self.conv2(F.gelu(self.conv1(self.norm2(h)))))
        return torch.cat([x, h], 1), total


class DecoderTransformer(nn.Module):
    def __init__(
        self,
        *,
        channels: int,
        maps: int,
        features: int,
        num_heads: int,
        expansion: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embed = embed(channels, maps)
        self.embed_skip = nn.Conv2d(channels + maps, maps, 1)
        self.norm1, self.norm2, self.norm3 = (
            MultichannelLayerNorm(channels=maps, features=features) for _ in range(3)
        )
        self.attn1, self.attn2 = (
            attention_after_linear(channels=maps, num_heads=num_heads, features=features)
            for _ in range(2)
        )
        self.conv1 = MultichannelLinear(
            channels=maps, features=features, features_out=expansion, depthwise=True
        )
        self.conv2 = MultichannelLinear(channels=maps, features=expansion, features_out=features)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B C F T"],
        skip: Float[Tensor, "B D F T"],
        scores: Float[Tensor, "B A H T T"] | None,
        memory_scores: Float[Tensor, "B A H T T"] | None,
        skip_scores: Float[Tensor, "B A H T T"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        h = self.embed(x)
        memory = self.embed_skip(skip)
        total = skip_scores if scores is None else skip_scores + scores
        z, own = self.attn1(self.norm1(h), scores=total)
        h = h + self.dropout(z)
        total = skip_scores + own
        total = total if memory_scores is None else total + memory_scores
        z, total = self.attn2(self.norm2(h), memory=memory, scores=total)
        h = h + self.dropout(z)
        h = h + self.dropout(self.conv2(F.gelu(self.conv1(self.norm3(h)))))
        return torch.cat([x, h], 1), own, total


class PlainV7(nn.Module):
    """Logits of a mask; `expansions` are the hidden features of each of the nine levels."""

    def __init__(
        self,
        *,
        in_channels: int = 2,
        out_channels: int = 2,
        channels: int = 2,
        dropout: float = 0.1,
        n_fft: int = 2048,
        num_heads: int = 4,
        num_attention_maps: int = 1,
        expansions: Sequence[int] = (4096,) * 9,
    ) -> None:
        super().__init__()
        bins, maps, bottom = n_fft // 2, num_attention_maps, len(WIDTHS) - 1
        widths = [channels * width for width in WIDTHS]
        self.positional_embedding = ConvolutionalEmbedding(
            channels=in_channels,
            features=bins,
            out=joining_block(bins, F.gelu),
            activation=F.gelu,
        )

        def body(channels: int, channels_out: int, features: int, stride: int) -> nn.Module:
            return ResidualBlock(
                norm=MultichannelLayerNorm(channels=channels, features=features),
                channels=channels,
                channels_out=channels_out,
                activation=F.gelu,
                stride=(stride, 1),
            )

        for i, width in enumerate(widths):
            features = bins >> i
            above = widths[i - 1] + maps if i else in_channels + 1
            down = body(above, width, 2 * features if i else features, 2 if i else 1)
            transformer = {
                "channels": width,
                "maps": maps,
                "features": features,
                "num_heads": num_heads // 2 if i == bottom else num_heads,
                "expansion": expansions[i],
                "dropout": dropout,
            }
            self.add_module(f"enc{i + 1}", FrameEncoder(body=down))
            self.add_module(f"enc{i + 1}_transformer", EncoderTransformer(**transformer))
            if i == bottom:
                break
            up = body(widths[i + 1] + maps + width + maps, width, features, 1)
            self.add_module(f"dec{i + 1}", FrameDecoder(body=up))
            self.add_module(f"dec{i + 1}_transformer", DecoderTransformer(**transformer))
        self.out = nn.Conv2d(widths[0] + maps, out_channels, 1)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        h = torch.cat([x, self.positional_embedding(x)], 1)
        num_levels = len(WIDTHS)
        streams, chain, qk = [], [], None
        for i in range(1, num_levels):
            h, qk = getattr(self, f"enc{i}_transformer")(getattr(self, f"enc{i}")(h), qk)
            streams.append(h)
            chain.append(qk)
        bottom = getattr(self, f"enc{num_levels}")(h)
        h, _ = getattr(self, f"enc{num_levels}_transformer")(bottom, None)
        qk1, qk2 = None, None
        for i in range(num_levels - 1, 0, -1):
            h = getattr(self, f"dec{i}")(h, streams[i - 1])
            transformer = getattr(self, f"dec{i}_transformer")
            h, qk1, qk2 = transformer(h, streams[i - 1], qk1, qk2, chain[i - 1])
        return self.out(h)
