"""The SepFormer: it takes samples, so the laws of the family's networks are said anew here."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn

from frametx.config import conf_dir
from frametx.losses.permutation_invariant import PermutationInvariantSiSnr
from frametx.models.sepformer import SepFormer
from frametx.nn.block import recompute_blocks
from frametx.nn.dual_path import DualPathBlock, GlobalNorm, PathLayer, PathTransformer
from frametx.waveform_separator import WaveformSeparator

Build = Callable[..., SepFormer]
Noise = Callable[..., Tensor]


def gradients(network: SepFormer, x: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    network(x).square().mean().backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


def plain_transformer(ours: PathTransformer, x: Tensor) -> Tensor:
    """Torch's own layers over B T F, with the weights of ours."""
    num_features = x.shape[-1]
    frames = torch.arange(x.shape[1])[:, None]
    rates = 10_000.0 ** (-torch.arange(0, num_features, 2) / num_features)
    positions = torch.zeros(x.shape[1:])
    positions[:, 0::2], positions[:, 1::2] = (frames * rates).sin(), (frames * rates).cos()
    x = x + positions
    for layer in cast(Iterable[PathLayer], ours.layers):
        theirs = nn.TransformerEncoderLayer(
            num_features,
            layer.num_heads,
            layer.expand.out_features,
            dropout=0.0,
            layer_norm_eps=1e-6,
            batch_first=True,
            norm_first=True,
        )
        qkv = {"in_proj_" + name: value for name, value in layer.to_qkv.state_dict().items()}
        theirs.self_attn.load_state_dict(qkv, strict=False)
        theirs.self_attn.out_proj.load_state_dict(layer.to_out.state_dict())
        theirs.linear1, theirs.linear2 = layer.expand, layer.contract
        theirs.norm1, theirs.norm2 = layer.attention_norm, layer.feed_forward_norm
        x = theirs(x)
    return ours.norm(x)


def group_norm(ours: GlobalNorm, x: Tensor) -> Tensor:
    return F.group_norm(x, 1, ours.weight, ours.bias, 1e-8)


def plain(network: SepFormer, waveform: Tensor) -> Tensor:
    """The recipe step by step in its own layout, B F T and B F K N: B L -> B S L."""
    encoded = F.conv1d(waveform[:, None], network.encoder.weight, stride=network.stride).relu()
    x = F.conv1d(group_norm(network.norm, encoded), network.bottleneck.weight[..., None])
    size, num_frames = network.chunk_frames, x.shape[-1]
    hop = size // 2
    gap = size - (hop + num_frames % size) % size
    x = F.pad(x, (hop, gap + hop))
    starts = range(0, x.shape[-1] - size + 1, hop)
    x = torch.stack([x[..., start : start + size] for start in starts], dim=-1)
    for block in cast(Iterable[DualPathBlock], network.blocks):
        chunks = x.unbind(dim=-1)
        within = [plain_transformer(block.intra, chunk.mT).mT for chunk in chunks]
        x = x + group_norm(block.intra_norm, torch.stack(within, dim=-1))
        places = x.unbind(dim=2)
        across = [plain_transformer(block.inter, place.mT).mT for place in places]
        x = x + group_norm(block.inter_norm, torch.stack(across, dim=2))
    x = F.conv2d(network.activation(x), network.to_stems.weight[..., None, None])
    x = x + network.to_stems.bias[:, None, None]
    x = x.unflatten(1, (network.num_stems, -1)).flatten(0, 1)
    joined = torch.zeros(*x.shape[:2], starts[-1] + size)
    for number, start in enumerate(starts):
        joined[..., start : start + size] += x[..., number]
    joined = joined[..., hop : hop + num_frames].mT
    masks = network.to_mask(network.value(joined).tanh() * network.gate(joined).sigmoid()).relu()
    masked = masks.mT.unflatten(0, (-1, network.num_stems)) * encoded[:, None]
    estimates = F.conv_transpose1d(
        masked.flatten(0, 1), network.decoder.weight, stride=network.stride
    )
    return estimates[:, 0].unflatten(0, (-1, network.num_stems))


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [1, 3, 6, 9, 23])
@pytest.mark.parametrize("num_stems", [2, 3])
def test_it_is_the_recipe_step_by_step(
    num_frames: int, num_stems: int, small_sepformer: Build, noise_mixture: Noise
) -> None:
    """9 frames are a special case: the recipe adds a whole empty chunk to them."""
    network = small_sepformer(stems=[str(number) for number in range(num_stems)])
    for name, parameter in network.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = noise_mixture(length=8 + 4 * (num_frames - 1))
    torch.testing.assert_close(network(x)[:, :, 0], plain(network, x[:, 0]), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 7, 8, 9, 64, 101, 400])
def test_any_length_comes_back_as_stems_of_that_length(
    length: int, small_sepformer: Build, noise_mixture: Noise
) -> None:
    estimates = small_sepformer()(noise_mixture(channels=2, length=length))
    assert estimates.shape == (2, 2, 2, length)
    assert estimates.isfinite().all()


@torch.no_grad()
def test_every_sample_lies_in_a_frame(small_sepformer: Build) -> None:
    network = small_sepformer()
    with torch.no_grad():
        network.encoder.weight.fill_(1.0)
    for length in range(1, 20):
        impulse = torch.zeros(1, length)
        impulse[0, -1] = 1.0
        assert network.encode(impulse).max() == 1.0


@torch.no_grad()
def test_a_batch_is_its_members_and_channels_one_by_one(
    small_sepformer: Build, noise_mixture: Noise
) -> None:
    network, batch = small_sepformer(), noise_mixture(batch=3, channels=2)
    alone = torch.stack(
        [
            torch.cat([network(channel[None, None]) for channel in member], dim=2)[0]
            for member in batch
        ]
    )
    torch.testing.assert_close(network(batch), alone, atol=1e-5, rtol=1e-4)


def test_the_gradient_reaches_every_parameter(small_sepformer: Build, noise_mixture: Noise) -> None:
    network = small_sepformer()
    reached = {name for name, g in gradients(network, noise_mixture()).items() if g.any()}
    assert reached == {name for name, _ in network.named_parameters()}


@torch.no_grad()
def test_a_louder_mixture_gives_louder_estimates_and_nothing_else(
    small_sepformer: Build, noise_mixture: Noise
) -> None:
    network, x = small_sepformer(), noise_mixture()
    torch.testing.assert_close(network(10 * x), 10 * network(x), atol=1e-4, rtol=1e-3)


def test_running_transformers_again_in_backward_changes_no_gradient(
    small_sepformer: Build, noise_mixture: Noise
) -> None:
    network, x = small_sepformer(dropout=0.3).train(), noise_mixture()
    torch.manual_seed(2)
    kept = gradients(network, x)
    recompute_blocks(network)
    torch.manual_seed(2)
    again = gradients(network, x)
    for name, gradient in kept.items():
        torch.testing.assert_close(again[name], gradient)


@torch.no_grad()
def test_dropout_is_random_in_training_alone(small_sepformer: Build, noise_mixture: Noise) -> None:
    network, x = small_sepformer(dropout=0.3), noise_mixture()
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))


def test_under_autocast_the_estimates_stay_close_in_full_precision(
    small_sepformer: Build, noise_mixture: Noise
) -> None:
    network, x = small_sepformer(), noise_mixture()
    exact = network(x).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(x)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.05)
    rough.square().mean().backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize(
    ("model", "num_parameters"),
    [("sepformer", 25_679_361), ("sepformer_small", 1_691_393), ("sepformer_tiny", 24_705)],
)
def test_the_configs_build_what_they_say(model: str, num_parameters: int) -> None:
    """The first count is that of the authors' recipe in SpeechBrain for two speakers, by sum."""
    names = [f"model={model}", "audio=8k_mono", "stems=[one,two]", "complement=null"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", names)
    with torch.device("meta"):
        built = instantiate(cfg.separator)
    assert isinstance(built, WaveformSeparator)
    assert built.stems == ("one", "two")
    assert built.chunk_samples == 64_000
    assert sum(p.numel() for p in built.parameters()) == num_parameters


def test_the_count_of_the_recipe_is_the_sum_of_its_parts() -> None:
    features, hidden, speakers = 256, 1024, 2
    linear = features * features + features
    layer = 4 * linear + 2 * features * hidden + hidden + features + 2 * 2 * features
    transformer = 8 * layer + 2 * features
    block = 2 * transformer + 2 * 2 * features
    heads = speakers * linear + 2 * linear + 2 * features * features  # and the bottleneck
    ends = 2 * 16 * features + 2 * features + 1  # encoder, decoder, first norm, PReLU
    assert 2 * block + heads + ends == 25_679_361


def two_speakers(*, length: int = 256) -> Tensor:
    """Two harmonic voices with different rhythms, 1 S 1 L."""
    time_s = torch.arange(length) / 8_000
    low = torch.sin(2 * torch.pi * 250 * time_s) * (torch.sin(2 * torch.pi * 40 * time_s) > 0)
    high = torch.sin(2 * torch.pi * 1_900 * time_s) * (torch.sin(2 * torch.pi * 65 * time_s) > -0.3)
    return torch.stack([low, high])[None, :, None]


def test_sixty_steps_on_one_mixture_of_two_speakers_win_ten_db(small_sepformer: Build) -> None:
    network, stems = small_sepformer().train(), two_speakers()
    loss = PermutationInvariantSiSnr(limit_db=None, weight=1.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        found = loss(network(stems.sum(dim=1)), stems)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        losses.append(found.item())
    untouched = loss(stems.sum(dim=1, keepdim=True).expand_as(stems), stems).item()
    assert min(losses[-5:]) < untouched - 10
    with torch.no_grad():  # what it learned holds for the swapped speakers as well
        swapped = loss(network(stems.sum(dim=1)), stems.flip(1))
    torch.testing.assert_close(swapped, loss(network(stems.sum(dim=1)), stems))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stride": 9}, "stride=9 must be between 1 and kernel_size=8"),
        ({"chunk_frames": 7}, "chunk_frames=7 must be even"),
        ({"num_heads": 5}, "num_features=12 cannot be split into 5 heads"),
        ({"stems": ["a"], "complement": "a"}, "leave nothing to separate"),
    ],
)
def test_what_cannot_be_built_is_refused(
    changes: dict[str, Any], says: str, small_sepformer: Build
) -> None:
    with pytest.raises(ValueError, match=says):
        small_sepformer(**changes)


def test_an_empty_mixture_is_refused(small_sepformer: Build) -> None:
    with pytest.raises(ValueError, match="an empty mixture"):
        small_sepformer()(torch.zeros(1, 1, 0))
