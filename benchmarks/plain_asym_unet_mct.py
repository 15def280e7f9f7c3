"""AsymUNetMCT written down plainly, to check our network against and to time it against.

The layout is B C F T, as in the original: a transpose around every linear layer, norm and
attention, and gates that are 3-d convolutions. Names and shapes of the weights are the original's,
so that both networks can be given the same ones. Nothing here is used by frametx.

    python benchmarks/plain_asym_unet_mct.py

prints seconds, CPU seconds and peak memory of forward and backward of both, each measured in a
process of its own, at n_fft 2048, 256 frames, 8 channels, 2 maps, 8 heads, expansion 1024, 2 bridge
layers. On a machine with other work, compare CPU seconds at `--threads 1`.
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CASE = {
    "in_channels": 2,
    "out_channels": 2,
    "channels": 8,
    "n_fft": 2048,
    "num_heads": 8,
    "expansion": 1024,
    "num_bridge_layers": 2,
    "num_attention_maps": 2,
}
WIDTHS = (1, 2, 4, 6, 8, 10, 12, 14, 16)


def squared_relu(x: Tensor) -> Tensor:
    return torch.relu(x) ** 2


class MultichannelLayerNorm(nn.Module):
    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, features))
        self.bias = nn.Parameter(torch.zeros(channels, 1, features))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(2, 3)
        return (F.layer_norm(x, x.shape[-1:], eps=1e-8) * self.weight + self.bias).transpose(2, 3)


class ChannelNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MultichannelLinear(nn.Module):
    def __init__(self, channels: int, features_in: int, features_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(features_in)
        self.weight_pw = nn.Parameter(
            torch.empty(channels, features_out, features_in).uniform_(-bound, bound)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x.transpose(2, 3), self.weight_pw.transpose(1, 2)).transpose(2, 3)


class FrameConv(MultichannelLinear):
    def __init__(self, channels: int, features: int, kernel_size: int) -> None:
        super().__init__(channels, features, features)
        self.conv = nn.Conv2d(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.conv(x))


class ResBlock(nn.Module):
    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        features: int,
        kernel_size: int = 3,
        stride: int | tuple[int, int] = 1,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.norm = MultichannelLayerNorm(channels_in, features)
        self.conv1 = nn.Conv2d(channels_in, channels_out, kernel_size, 1, padding, bias=False)
        self.conv2 = nn.Conv2d(channels_out, channels_out, kernel_size, stride, padding, bias=False)
        same = channels_in == channels_out and stride == 1
        self.identity = (
            nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.identity(x) + self.conv2(squared_relu(self.conv1(self.norm(x))))


class Rotary(nn.Module):
    freqs: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        pairs = torch.arange(features // 2, dtype=torch.float32)
        self.register_buffer("freqs", 1 / 10_000 ** (2 * pairs / features))

    def forward(self, x: Tensor) -> Tensor:
        if len(self.freqs) == 0:
            return x
        angles = torch.arange(x.shape[-2], dtype=torch.float32)[:, None] * self.freqs
        cosine, sine = angles.cos(), angles.sin()
        turned = x[..., : 2 * len(self.freqs)]
        even, odd = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], -1)
        return torch.cat([turned.flatten(-2), x[..., 2 * len(self.freqs) :]], -1)


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, scores: Tensor | None
) -> tuple[Tensor, Tensor]:
    products = torch.matmul(q, k.transpose(-1, -2)) / scale
    if scores is not None:
        products = products + scores
    return torch.matmul(products.softmax(-1), v), products


class MultichannelAttention(nn.Module):
    def __init__(self, channels: int, heads: int, features: int) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = Rotary(features // heads)
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Sequential(
                MultichannelLinear(channels, features, features),
                nn.Conv2d(channels, channels, (1, 3), padding=(0, 1)),
            )
            for _ in range(3)
        )
        self.o_proj = MultichannelLinear(channels, features, features)

    def forward(
        self, x: Tensor, mem: Tensor | None = None, prev_qk: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        batch, channels, features, frames = x.shape
        mem = x if mem is None else mem

        def heads(y: Tensor) -> Tensor:
            y = y.transpose(2, 3).reshape(batch, channels, frames, self.heads, -1)
            return y.transpose(2, 3)

        q = self.embedding(heads(self.q_proj(x)))
        k = self.embedding(heads(self.k_proj(mem)))
        a, qk = attend(q, k, heads(self.v_proj(mem)), math.sqrt(features), prev_qk)
        a = a.transpose(2, 3).reshape(batch, channels, frames, features).transpose(2, 3)
        return self.o_proj(a), qk


class ConvolutionalAttention(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = Rotary(channels // heads)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(4)
        )

    def forward(self, x: Tensor, prev_qk: Tensor | None) -> tuple[Tensor, Tensor]:
        channels = x.shape[1]

        def heads(y: Tensor) -> Tensor:
            return y.view(len(y), self.heads, channels // self.heads, -1).transpose(2, 3)

        q, k = self.embedding(heads(self.q_proj(x))), self.embedding(heads(self.k_proj(x)))
        a, qk = attend(q, k, heads(self.v_proj(x)), math.sqrt(channels), prev_qk)
        return self.o_proj(a.transpose(2, 3).reshape(x.shape)), qk


class ConvolutionalEmbedding(nn.Module):
    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        widths = [channels + 1, *(channels * width for width in WIDTHS[1:])]
        self.num_levels = len(widths)
        for i, width in enumerate(widths):
            extract = ResBlock(width, 1, features >> i, kernel_size=11)
            self.add_module(f"extract{i + 1}", extract)
        for i in range(self.num_levels - 1):
            encoder = ResBlock(widths[i], widths[i + 1], features >> i, stride=(2, 2))
            self.add_module(f"encoder{i + 1}", encoder)
        self.out = ResBlock(self.num_levels, 1, features, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, features, frames = x.shape
        pairs = torch.arange(0, features, 2, dtype=torch.float32)
        angles = torch.exp(pairs * (-math.log(10_000) / features))[:, None] * torch.arange(
            frames, dtype=torch.float32
        )
        table = torch.stack([angles.sin(), angles.cos()], 1).flatten(0, 1)
        h = torch.cat([x, table.expand(batch, 1, -1, -1)], 1)
        maps = []
        for i in range(1, self.num_levels + 1):
            e = getattr(self, f"extract{i}")(h)
            if i > 1:
                size = (features, frames)
                e = F.interpolate(e, size=size, mode="bilinear", align_corners=True)
            maps.append(e)
            if i < self.num_levels:
                h = getattr(self, f"encoder{i}")(h)
        return self.out(torch.cat(maps, 1))


def embed(channels: int, maps: int) -> nn.Module:
    return nn.Identity() if channels == maps else nn.Conv2d(channels, maps, 1)


class EncoderTransformer(nn.Module):
    def __init__(self, channels: int, maps: int, features: int, expansion: int, heads: int) -> None:
        super().__init__()
        self.embed = embed(channels, maps)
        self.norm1, self.norm2, self.norm3, self.norm4, self.norm5 = (
            MultichannelLayerNorm(maps, features) for _ in range(5)
        )
        self.glu = nn.Sequential(MultichannelLinear(maps, features, 2 * features), nn.GLU(2))
        self.conv1a = MultichannelLinear(maps, features, features)
        self.conv1b = FrameConv(maps, features, 3)
        self.conv2 = FrameConv(maps, features, 9)
        self.attn = MultichannelAttention(maps, heads, features)
        self.conv3 = MultichannelLinear(maps, features, expansion)
        self.conv4 = MultichannelLinear(maps, expansion, features)

    def forward(self, x: Tensor, prev_qk: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        h = self.embed(x)
        h = h + self.glu(self.norm1(h))
        z = self.norm2(h)
        h = h + squared_relu(self.conv1a(z)) + squared_relu(self.conv1b(z))
        h = h + self.conv2(self.norm3(h))
        z, qk = self.attn(self.norm4(h), prev_qk=prev_qk)
        h = h + z
        h = h + self.conv4(squared_relu(self.conv3(self.norm5(h))))
        return torch.cat([x, h], 1), h, qk


class SquaredReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return squared_relu(x)


def gate(maps: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(2 * maps, maps, 3, padding=1),
        SquaredReLU(),
        nn.Conv3d(maps, 1, 3, padding=1),
        nn.Sigmoid(),
    )


def blend(gate: nn.Sequential, previous: Tensor, skip: Tensor) -> Tensor:
    g = gate(torch.cat([previous, skip], 1))
    return g * previous + (1 - g) * skip


class DecoderTransformer(nn.Module):
    def __init__(
        self,
        channels: int,
        maps: int,
        features: int,
        expansion: int,
        heads: int,
        is_deepest: bool,
    ) -> None:
        super().__init__()
        self.gate1 = None if is_deepest else gate(maps)
        self.gate2 = gate(maps)
        self.embed = embed(channels, maps)
        self.norm1, self.norm2, self.norm3, self.norm4, self.norm5, self.norm6 = (
            MultichannelLayerNorm(maps, features) for _ in range(6)
        )
        self.attn1a, self.attn1b, self.attn2, self.attn3 = (
            MultichannelAttention(maps, heads, features) for _ in range(4)
        )
        self.conv1a = FrameConv(maps, features, 11)
        self.conv1b = FrameConv(maps, features, 7)
        self.conv2 = FrameConv(maps, features, 7)
        self.conv3 = MultichannelLinear(maps, features, expansion)
        self.conv4 = MultichannelLinear(maps, expansion, features)

    def forward(
        self,
        x: Tensor,
        skip: Tensor,
        prev_qk1: Tensor | None,
        prev_qk2: Tensor | None,
        skip_qk: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        h = self.embed(x)
        z = self.norm1(h)
        za, qk1 = self.attn1a(z, prev_qk=prev_qk1)
        qk2 = skip_qk
        if self.gate1 is not None and prev_qk2 is not None:
            qk2 = blend(self.gate1, prev_qk2, skip_qk)
        zb, qk2 = self.attn1b(z, mem=skip, prev_qk=qk2)
        h = h + za + zb
        z = self.norm2(h)
        h = h + self.conv2(self.norm3(squared_relu(self.conv1a(z)) + self.conv1b(z)))
        z, qk1 = self.attn2(self.norm4(h), prev_qk=qk1)
        h = h + z
        z, qk2 = self.attn3(self.norm5(h), mem=skip, prev_qk=blend(self.gate2, qk2, skip_qk))
        h = h + z
        h = h + self.conv4(squared_relu(self.conv3(self.norm6(h))))
        return torch.cat([x, h], 1), qk1, qk2


class BridgeTransformer(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        c = channels
        self.norm1, self.norm2, self.norm3, self.norm4, self.norm5 = (
            ChannelNorm(c) for _ in range(5)
        )
        self.glu = nn.Sequential(nn.Conv2d(c, 2 * c, 1), nn.GLU(1))
        self.conv1a = nn.Conv2d(c, c, 1)
        self.conv1b = nn.Sequential(nn.Conv2d(c, c, 3, padding=1, groups=c), nn.Conv2d(c, c, 1))
        self.conv2 = nn.Sequential(nn.Conv2d(c, c, 9, padding=4, groups=c), nn.Conv2d(c, c, 1))
        self.attn = ConvolutionalAttention(c, heads)
        self.conv3 = nn.Conv2d(c, 4 * c, 3, padding=1)
        self.conv4 = nn.Conv2d(4 * c, c, 3, padding=1)

    def forward(self, x: Tensor, prev_qk: Tensor | None) -> tuple[Tensor, Tensor]:
        h = x + self.glu(self.norm1(x))
        z = self.norm2(h)
        h = h + squared_relu(self.conv1a(z)) + squared_relu(self.conv1b(z))
        h = h + self.conv2(self.norm3(h))
        z, qk = self.attn(self.norm4(h), prev_qk)
        h = x + z  # as the original: the residual restarts at the block's input
        return h + self.conv4(squared_relu(self.conv3(self.norm5(h)))), qk


class Body(nn.Module):
    def __init__(self, body: ResBlock) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class PlainAsymUNetMCT(nn.Module):
    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        channels: int,
        n_fft: int,
        num_heads: int,
        expansion: int,
        num_bridge_layers: int,
        num_attention_maps: int,
    ) -> None:
        super().__init__()
        maps, bins = num_attention_maps, n_fft // 2
        ch = [channels * width for width in WIDTHS]
        self.positional_embedding = ConvolutionalEmbedding(in_channels, bins)
        self.enc1 = Body(ResBlock(in_channels + 1, ch[0], bins))
        for i in range(8):
            features = bins >> i
            shape = (ch[i], maps, features, expansion, num_heads)
            self.add_module(f"enc{i + 1}_transformer", EncoderTransformer(*shape))
            down = ResBlock(ch[i] + maps, ch[i + 1], features, stride=(2, 1))
            self.add_module(f"enc{i + 2}", Body(down))
            below = ch[i + 1] + (maps if i < 7 else 0)
            self.add_module(f"dec{i + 1}", Body(ResBlock(below + ch[i] + maps, ch[i], features)))
            self.add_module(f"dec{i + 1}_transformer", DecoderTransformer(*shape, i == 7))
        self.enc9_transformer = nn.ModuleList(
            BridgeTransformer(ch[-1], num_heads) for _ in range(num_bridge_layers)
        )
        self.out = nn.Conv2d(ch[0] + maps, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enc1(torch.cat([x, self.positional_embedding(x)], 1))
        streams, skips, scores = [], [], []
        qk = None
        for i in range(1, 9):
            h, skip, qk = getattr(self, f"enc{i}_transformer")(h, qk)
            streams.append(h)
            skips.append(skip)
            scores.append(qk)
            h = getattr(self, f"enc{i + 1}")(h)
        qk = None
        for layer in self.enc9_transformer:
            h, qk = layer(h, qk)
        qk1, qk2 = None, None
        for i in range(8, 0, -1):
            h = F.interpolate(h, scale_factor=(2, 1), mode="bilinear", align_corners=True)
            h = getattr(self, f"dec{i}")(torch.cat([h, streams[i - 1]], 1))
            h, qk1, qk2 = getattr(self, f"dec{i}_transformer")(
                h, skips[i - 1], qk1, qk2, scores[i - 1]
            )
        return self.out(h)


def ours() -> nn.Module:
    """The same network of frametx, with the same weights."""
    from frametx.legacy.asym_unet_mct import convert
    from frametx.models.asym_unet_mct import AsymUNetMCT

    config, weights = convert(PlainAsymUNetMCT(**CASE).state_dict(), dropout=0.0)
    model = AsymUNetMCT(**config)
    model.load_state_dict(weights)
    return model


def measure(network: str, *, frames: int, threads: int, repeats: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = PlainAsymUNetMCT(**CASE) if network == "plain" else ours()
    torch.manual_seed(1)  # the same input, however many numbers the weights took
    magnitude = torch.rand(1, CASE["in_channels"], CASE["n_fft"] // 2, frames)
    power, seconds, cpu_seconds = torch.zeros(()), [], []
    for _ in range(1 + repeats):
        model.zero_grad()
        start, cpu_start = time.perf_counter(), time.process_time()
        power = model(magnitude).square().mean()
        power.backward()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return {
        "seconds": statistics.median(seconds[1:]),
        "cpu_seconds": statistics.median(cpu_seconds[1:]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "mean_square_of_logits": power.item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time both networks.")
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--network", choices=["plain", "ours"], help="measure one, in this process")
    args = parser.parse_args()
    options = {"frames": args.frames, "threads": args.threads, "repeats": args.repeats}
    if args.network:
        print(json.dumps(measure(args.network, **options)))
        return
    results = {}
    for network in ("plain", "ours"):
        command = [sys.executable, __file__, "--network", network]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        results[network] = json.loads(done.stdout)
        print(network, results[network])
    for quantity in ("seconds", "cpu_seconds", "peak_mb"):
        ratio = results["plain"][quantity] / results["ours"][quantity]
        print(f"{quantity}: ours takes 1/{ratio:.2f} of plain")


if __name__ == "__main__":
    main()
