import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from frametx.audio.stft import Stft
from frametx.checkpoint import load_separator, save_separator
from frametx.models.mask_refiner import MaskRefiner
from frametx.models.v7 import V7
from frametx.neural_ensemble import Maps, NeuralEnsemble, corrected, num_maps
from frametx.separator import SpectrogramSeparator
from frametx.streaming import separate_waveform

STEMS = ("vocals", "instrumental")


def v7(*, maps: int, n_fft: int = 64, out: int = 2) -> dict[str, Any]:
    return {
        "_target_": "frametx.models.v7.V7",
        "in_channels": maps,
        "out_channels": out,
        "n_fft": n_fft,
        "channels": 2,
        "widths": [1, 2],
        "num_attention_maps": 1,
        "num_heads": 2,
        "num_bottom_heads": 2,
        "expansions": [8, 8],
        "dropout": 0.0,
        "embedding_widths": [],
        "embedding_kernel_size": 3,
        "mixes_encoder_hidden": False,
        "score_scale": "features",
        "angle_precision": "float32",
    }


def stored_stft(n_fft: int) -> dict[str, Any]:
    return {"_target_": "frametx.audio.stft.Stft", "n_fft": n_fft, "hop_length": n_fft // 2}


def stored_member(
    *,
    n_fft: int = 64,
    channels: int = 2,
    rate: int = 8000,
    stems: Sequence[str] = STEMS,
    complement: str | None = "vocals",
) -> dict[str, Any]:
    """The config of a separator with a network of random weights."""
    return {
        "_target_": "frametx.separator.SpectrogramSeparator",
        "stft": stored_stft(n_fft),
        "network": v7(maps=channels, n_fft=n_fft, out=channels),
        "stems": list(stems),
        "complement": complement,
        "sample_rate": rate,
        "num_channels": channels,
        "chunk_frames": 16,
        "scale": "chunk_peak",
        "top_bin": "copy",
    }


def stored_ensemble(*members: dict[str, Any], channels: int = 2) -> dict[str, Any]:
    return {
        "_target_": "frametx.neural_ensemble.NeuralEnsemble",
        "members": list(members),
        "network": v7(maps=(1 + len(members)) * channels, out=channels),
        "stft": stored_stft(64),
        "stems": list(STEMS),
        "complement": "vocals",
        "sample_rate": 8000,
        "num_channels": channels,
        "chunk_frames": 16,
        "scale": "chunk_peak",
        "top_bin": "copy",
    }


def ensemble_of(*members: dict[str, Any], channels: int = 2) -> NeuralEnsemble:
    torch.manual_seed(0)
    return instantiate(stored_ensemble(*members, channels=channels))


def learned(ensemble: NeuralEnsemble) -> NeuralEnsemble:
    """With a last layer as after some training, so that the network has a say."""
    out = cast(V7, ensemble.network).out
    assert not out.weight.any()
    out.reset_parameters()
    return ensemble


class Share(nn.Module):
    """A separator that leaves a fixed share of the mixture, at any rate and number of channels."""

    def __init__(
        self,
        share: float,
        *,
        stems: tuple[str, ...] = STEMS,
        complement: str | None = "vocals",
        sample_rate: int = 8000,
        num_channels: int = 2,
    ) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))
        self.stems, self.complement = stems, complement
        self.sample_rate, self.num_channels = sample_rate, num_channels
        self.chunk_samples = 512
        self.heard: list[Tensor] = []

    def forward(self, mixture: Tensor) -> Tensor:
        assert mixture.shape[1] == self.num_channels
        self.heard.append(mixture)
        instrumental = self.share * mixture
        of = {"instrumental": instrumental, "vocals": mixture - instrumental}
        return torch.stack([of[stem] for stem in self.stems], dim=1)


def ensemble_around(
    *members: nn.Module,
    channels: int = 2,
    network: nn.Module | None = None,
    stft: Stft | None = None,
    complement: str | None = "vocals",
    scale: Literal["chunk_peak", "none"] = "chunk_peak",
    top_bin: Literal["copy", "zero"] = "copy",
) -> NeuralEnsemble:
    torch.manual_seed(0)
    maps = (1 + len(members)) * channels
    return NeuralEnsemble(
        members=members,
        network=instantiate(v7(maps=maps, out=channels)) if network is None else network,
        stft=Stft(n_fft=64, hop_length=32) if stft is None else stft,
        stems=STEMS,
        complement=complement,
        sample_rate=8000,
        num_channels=channels,
        chunk_frames=16,
        scale=scale,
        top_bin=top_bin,
    )


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_an_ensemble_that_learned_nothing_is_the_mean_of_its_members() -> None:
    ensemble = ensemble_of(stored_member(), stored_member(), stored_member())
    mixture = noise(2, 2, 700)
    estimates = [member(mixture) for member in ensemble.members]
    assert (estimates[0] - estimates[1]).abs().max() > 1e-2  # members differ
    mean = torch.stack(estimates).mean(dim=0)
    torch.testing.assert_close(ensemble(mixture), mean, atol=1e-5, rtol=0)
    assert (learned(ensemble)(mixture) - mean).abs().max() > 1e-3  # the comparison can fail


def test_masks_of_exactly_0_and_1_survive_a_correction_of_nothing() -> None:
    mask = torch.tensor([0.0, 1.0, 1e-4, 0.3, 0.9999])[:, None]
    assert torch.equal(corrected(mask, torch.zeros_like(mask)), mask)
    wide = torch.linspace(-20, 20, 9).expand(5, 9)
    moved = corrected(mask.expand(5, 9), wide)
    assert moved.min() > -0.011
    assert moved.max() < 1.011
    assert (moved.diff(dim=1) >= 0).all()
    assert moved[0, -1] > 0.9  # also where all members agree, the network can decide otherwise
    assert moved[1, 0] < 0.1


def test_a_certain_mean_can_still_be_moved_by_learning() -> None:
    mask = torch.tensor([[0.0, 1.0]])
    correction = torch.zeros_like(mask, requires_grad=True)
    corrected(mask, correction).sum().backward()
    assert correction.grad is not None
    assert (correction.grad > 5e-3).all()


@pytest.mark.parametrize("top_bin", ["copy", "zero"])
def test_what_the_network_says_moves_the_logits_of_the_mean(
    top_bin: Literal["copy", "zero"],
) -> None:
    class Says(nn.Module):
        num_bins = 32
        seen = torch.zeros(0)

        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(1, 2)

        def forward(self, maps: Tensor) -> Tensor:
            self.seen = maps
            return self.out.bias[:, None, None].expand_as(maps[:, :2])

    network = Says()
    ensemble = ensemble_around(Share(0.2), Share(0.4), network=network, top_bin=top_bin)
    mixture = noise(2, 2, 640)
    with torch.no_grad():
        network.out.bias.copy_(torch.tensor([1.0, -1.0]))
        spectrogram = ensemble.stft(mixture)
        estimates = ensemble(mixture)
    moved = torch.sigmoid(torch.tensor(0.01 + 0.98 * 0.3).logit() + torch.tensor([1.0, -1.0]))
    factor = (moved - 0.01) / 0.98
    mask = factor[:, None, None].expand(2, 2, 33, -1).clone()
    if top_bin == "zero":
        mask[:, :, 32] = 0.3
    wanted = ensemble.stft.inverse(mask * spectrogram, length=640)
    torch.testing.assert_close(estimates[:, 1], wanted, atol=1e-4, rtol=0)
    magnitude = spectrogram.abs()[:, :, :32]
    peak = magnitude.amax(dim=(1, 2, 3), keepdim=True)
    assert network.seen.shape[1] == 6
    torch.testing.assert_close(network.seen[:, :2], magnitude / peak)
    for maps, share in ((network.seen[:, 2:4], 0.2), (network.seen[:, 4:], 0.4)):
        torch.testing.assert_close(maps, torch.full_like(maps, share), atol=1e-3, rtol=0)


def test_a_batch_is_what_its_items_are_and_stems_sum_to_the_mixture() -> None:
    ensemble = learned(ensemble_of(stored_member(), stored_member(n_fft=32)))
    mixtures = noise(3, 2, 700) * torch.tensor([1.0, 0.1, 3.0])[:, None, None]
    together = ensemble(mixtures)
    one_by_one = torch.cat([ensemble(mixture[None]) for mixture in mixtures])
    torch.testing.assert_close(together, one_by_one, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.sum(dim=1), mixtures, atol=1e-5, rtol=0)
    quiet = ensemble(0.01 * mixtures)
    torch.testing.assert_close(quiet, 0.01 * together, atol=1e-6, rtol=1e-4)


def test_silence_stays_silence() -> None:
    ensemble = learned(ensemble_of(stored_member(), stored_member(n_fft=32)))
    assert torch.equal(ensemble(torch.zeros(1, 2, 300)), torch.zeros(1, 2, 2, 300))


@pytest.mark.parametrize("complement", ["vocals", "instrumental", None])
@pytest.mark.parametrize("stems", [STEMS, STEMS[::-1]])
def test_order_of_stems_and_complement_may_differ_between_members(
    stems: tuple[str, ...], complement: str | None
) -> None:
    other = Share(0.6, stems=stems, complement=complement)
    ensemble = ensemble_around(Share(0.2), other)
    mixture = noise(1, 2, 640)
    estimates = ensemble(mixture)
    torch.testing.assert_close(estimates[:, 1], 0.4 * mixture, atol=1e-3, rtol=0)


@pytest.mark.parametrize("complement", ["vocals", "instrumental"])
@pytest.mark.parametrize("stems", [STEMS, STEMS[::-1]])
def test_a_mask_asked_for_is_the_mask_seen_in_the_estimates(
    stems: tuple[str, ...], complement: str
) -> None:
    """With quarter hops an estimate's spectrogram is nearly the masked one."""
    config = stored_member(stems=stems, complement=complement)
    config["stft"]["hop_length"] = 8
    member = instantiate(config)
    ensemble = ensemble_around(member, Share(0.5), stft=Stft(n_fft=64, hop_length=8))
    mixture = noise(1, 2, 640)
    magnitude = ensemble.stft(mixture).abs()
    with torch.no_grad():
        own = ensemble.member_masks(mixture, magnitude)[:, 0]
        seen = ensemble._seen_mask(member, mixture, magnitude).clamp(0, 1)
        otherwise = 1 - own
    assert (own - seen).abs().mean() < 0.05
    assert (otherwise - seen).abs().mean() > 0.1


def test_a_mono_member_hears_each_channel_and_a_stereo_member_hears_one_channel_twice() -> None:
    mono = Share(0.4, num_channels=1)
    mixture = noise(3, 2, 640)
    estimates = ensemble_around(mono, Share(0.2))(mixture)
    torch.testing.assert_close(estimates[:, 1], 0.3 * mixture, atol=1e-3, rtol=0)
    assert mono.heard[0].shape == (6, 1, 640)
    stereo = Share(0.4, num_channels=2)
    estimates = ensemble_around(stereo, Share(0.2, num_channels=1), channels=1)(mixture[:, :1])
    torch.testing.assert_close(estimates[:, 1], 0.3 * mixture[:, :1], atol=1e-3, rtol=0)
    assert torch.equal(stereo.heard[0][:, 0], stereo.heard[0][:, 1])


def test_channels_of_a_mono_member_with_the_same_stft_are_its_own() -> None:
    ensemble = ensemble_of(stored_member(channels=1), stored_member(channels=1))
    mixture = noise(1, 2, 640)
    mean = torch.stack([m(mixture.transpose(0, 1)) for m in ensemble.members]).mean(dim=0)
    torch.testing.assert_close(
        ensemble(mixture)[0], mean[:, :, 0].transpose(0, 1), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(("complement", "above"), [("vocals", 0.0), ("instrumental", 1.0)])
def test_above_a_members_nyquist_its_rest_has_everything(complement: str, above: float) -> None:
    """A tone at 3 kHz is beyond a member of 4 kHz; one at 500 Hz is not."""
    member = Share(0.25, sample_rate=4000, complement=complement)
    ensemble = ensemble_around(member, Share(0.25))
    time_s = torch.arange(2001) / 8000
    tone = torch.sin(2 * torch.pi * 3000 * time_s).expand(1, 2, -1)
    low = torch.sin(2 * torch.pi * 500 * time_s).expand(1, 2, -1)
    for mixture, wanted, bin_number in ((tone, above, 24), (low, 0.25, 4)):
        magnitude = ensemble.stft(mixture).abs()
        masks = ensemble.member_masks(mixture, magnitude)
        mask = masks[0, 0, 0, 0, bin_number, 20:40]
        torch.testing.assert_close(mask, torch.full_like(mask, wanted), atol=0.02, rtol=0)
    assert member.heard[0].shape[-1] == 1001
    assert ensemble(tone).shape == (1, 2, 2, 2001)


def test_members_learn_nothing_and_the_network_everything() -> None:
    ensemble = ensemble_of(stored_member(), stored_member(n_fft=32)).train()
    before = copy.deepcopy(ensemble.members.state_dict())
    buffers = [buffer.clone() for buffer in ensemble.members.buffers()]
    optimizer = torch.optim.AdamW([p for p in ensemble.parameters() if p.requires_grad], lr=1e-2)
    mixture, stems = noise(2, 2, 640), noise(2, 2, 2, 640, seed=2)
    for _ in range(2):
        optimizer.zero_grad()
        (ensemble(mixture) - stems).square().mean().backward()
        optimizer.step()
    assert all(p.grad is None and not p.requires_grad for p in ensemble.members.parameters())
    torch.testing.assert_close(dict(ensemble.members.state_dict()), dict(before), atol=0, rtol=0)
    assert all(map(torch.equal, ensemble.members.buffers(), buffers))
    for name, parameter in ensemble.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_members_stay_in_evaluation_mode() -> None:
    config = stored_member()
    config["network"]["dropout"] = 0.9
    ensemble = ensemble_of(config, config).train()
    assert ensemble.network.training
    assert not any(part.training for part in ensemble.members.modules())
    mixture = noise(1, 2, 640)
    assert torch.equal(ensemble(mixture), ensemble(mixture))


def test_an_ensemble_learns_which_member_to_follow() -> None:
    """One member is right about low bins, the other about high ones: no fixed rule is."""

    class Half(nn.Module):
        num_bins = 32

        def __init__(self, *, low: float, high: float) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([low] * 16 + [high] * 16)[:, None])

        def forward(self, magnitude: Tensor) -> Tensor:
            return self.logits.expand_as(magnitude)

    def member(low: float, high: float) -> SpectrogramSeparator:
        return SpectrogramSeparator(
            stft=Stft(n_fft=64, hop_length=32),
            network=Half(low=low, high=high),
            stems=STEMS,
            complement="vocals",
            sample_rate=8000,
            num_channels=1,
            chunk_frames=16,
            scale="chunk_peak",
            top_bin="copy",
        )

    right = member(-4.0, 4.0)
    ensemble = ensemble_around(member(-4.0, -4.0), member(4.0, 4.0), channels=1)
    optimizer = torch.optim.AdamW([p for p in ensemble.parameters() if p.requires_grad], lr=1e-2)

    def error(seed: int) -> Tensor:
        mixture = noise(2, 1, 640, seed=seed)
        with torch.no_grad():
            truth = right(mixture)
        return (ensemble(mixture) - truth).square().mean()

    before = float(error(0).detach())
    for step in range(1, 41):
        optimizer.zero_grad()
        error(step).backward()
        optimizer.step()
    assert float(error(0).detach()) < 0.3 * before


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_checkpoint_holds_members_and_all(suffix: str, tmp_path: Path) -> None:
    config = stored_ensemble(stored_member(), stored_member(n_fft=32, channels=1, rate=4000))
    torch.manual_seed(3)
    ensemble = learned(instantiate(config))
    save_separator(tmp_path / f"one{suffix}", ensemble, config, model="neural_ensemble")
    loaded = load_separator(tmp_path / f"one{suffix}")
    mixture = noise(1, 2, 900)
    with torch.no_grad():
        assert torch.equal(loaded(mixture), ensemble.eval()(mixture))
    assert isinstance(loaded, NeuralEnsemble)
    assert not any(p.requires_grad for p in loaded.members.parameters())
    stream = partial(separate_waveform, loaded, noise(2, 5000), sample_rate=16_000)
    torch.testing.assert_close(stream().sum(dim=0), noise(2, 5000), atol=1e-5, rtol=0)


class Reader(nn.Module):
    num_past_crops, crop_frames, num_bins = 1, 8, 32


class Magnitudes(nn.Module):
    head, num_bins = "magnitude", 32


class NoLastLayer(nn.Module):
    num_bins = 32


def test_members_that_do_not_fit_are_refused() -> None:
    fits = Share(0.5)
    past = SpectrogramSeparator(
        stft=Stft(n_fft=64, hop_length=32),
        network=Reader(),
        stems=STEMS,
        complement="vocals",
        sample_rate=8000,
        num_channels=2,
        chunk_frames=16,
        scale="chunk_peak",
        top_bin="copy",
    )
    with pytest.raises(ValueError, match="at least one member"):
        ensemble_around()
    with pytest.raises(ValueError, match="member 2 is a Linear, which separates nothing"):
        ensemble_around(fits, nn.Linear(1, 1))
    with pytest.raises(ValueError, match="member 2 is shown what it did earlier"):
        ensemble_around(fits, past)
    with pytest.raises(ValueError, match=r"member 1 separates \['drums', 'rest'\]"):
        ensemble_around(Share(0.5, stems=("drums", "rest"), complement="rest"), fits)
    with pytest.raises(ValueError, match="member 2 takes 2 channels, the ensemble 3"):
        ensemble_around(Share(0.5, num_channels=1), fits, channels=3)


def test_an_ensemble_that_cannot_work_is_refused() -> None:
    members = (Share(0.5), Share(0.5))
    with pytest.raises(ValueError, match="complement=None must be one of the stems"):
        ensemble_around(*members, complement=None)
    with pytest.raises(ValueError, match="complement=drums must be one of the stems"):
        ensemble_around(*members, complement="drums")
    with pytest.raises(ValueError, match="takes 32 bins but n_fft=32 gives 17"):
        ensemble_around(*members, stft=Stft(n_fft=32, hop_length=16))
    for network in (Reader(), Magnitudes(), NoLastLayer()):
        with pytest.raises(ValueError, match="cannot be the network of an ensemble"):
            ensemble_around(*members, network=network)
    for scale, top_bin in (("peak", "copy"), ("none", "keep")):
        with pytest.raises(ValueError, match=r"scale=peak|top_bin=keep"):
            ensemble_around(*members, scale=scale, top_bin=top_bin)  # pyright: ignore


def test_a_network_may_want_another_range_and_a_multiple_of_frames() -> None:
    class Wants(nn.Module):
        num_bins, input_range, frame_multiple = 32, (-1.0, 1.0), 8
        seen = torch.zeros(0)
        out = nn.Identity()

        def forward(self, maps: Tensor) -> Tensor:
            self.seen = maps
            return maps[:, :2]

    network = Wants()
    ensemble = ensemble_around(Share(0.25), Share(0.25), network=network)
    ensemble(noise(1, 2, 640))
    assert network.seen.shape[-1] == 24  # 21 frames
    masks = network.seen[:, 2:, :, :21]
    torch.testing.assert_close(masks, torch.full_like(masks, -0.5), atol=2e-3, rtol=0)
    assert (network.seen[..., 21:] == -1).all()
    assert network.seen[:, :2].max() == 1


def test_the_network_that_is_shipped_is_one_that_an_ensemble_can_use() -> None:
    ensemble = ensemble_of(stored_member(), stored_member())
    assert isinstance(ensemble.network, V7)


def refiner(
    *members: nn.Module, channels: int = 2, maps: Maps = "compressed", extends_masks: bool = False
) -> NeuralEnsemble:
    """A mask refiner around members, as experiment=refiner has it, but small."""
    torch.manual_seed(0)
    in_channels = num_maps(
        num_members=len(members), num_given_stems=1, num_channels=channels, maps=maps
    )
    network = MaskRefiner(
        in_channels=in_channels,
        out_channels=channels,
        n_fft=64,
        fold=2,
        widths=[4, 6],
        token_features=8,
        num_layers=1,
        num_heads=2,
        hidden_features=16,
        dropout=0.0,
    )
    return NeuralEnsemble(
        members=members,
        network=network,
        stft=Stft(n_fft=64, hop_length=32),
        stems=STEMS,
        complement="instrumental",
        sample_rate=8000,
        num_channels=channels,
        chunk_frames=16,
        scale="chunk_rms",
        top_bin="copy",
        maps=maps,
        correction_scale=3.0,
        extends_masks=extends_masks,
    )


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("maps", ["magnitude", "compressed"])
@pytest.mark.parametrize("num_members", [1, 2])
def test_a_refiner_starts_as_the_mean_and_every_map_it_reads_counts(
    channels: int, maps: Maps, num_members: int
) -> None:
    members = [instantiate(stored_member(channels=channels)) for _ in range(num_members)]
    ensemble = refiner(*members, channels=channels, maps=maps)
    mixture = noise(2, channels, 700)
    mean = torch.stack([member(mixture) for member in members]).mean(dim=0)
    torch.testing.assert_close(ensemble(mixture), mean, atol=1e-5, rtol=0)
    network = cast(MaskRefiner, ensemble.network)
    network.out.reset_parameters()
    estimates = ensemble(mixture)
    assert (estimates - mean).abs().max() > 1e-3
    torch.testing.assert_close(estimates.sum(dim=1), mixture, atol=1e-5, rtol=0)
    (estimates - noise(2, 2, channels, 700, seed=2)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    weight = network.folded.weight
    of_masks = num_members * channels
    between = 3 if channels == 2 else 0
    wanted = channels + (of_masks if maps == "magnitude" else 2 * of_masks + between)
    assert weight.shape[1] == wanted
    assert weight.grad is not None
    assert (weight.grad.abs().amax(dim=(0, 2, 3)) > 0).all()


def test_a_refiner_takes_any_level_and_silence() -> None:
    ensemble = refiner(instantiate(stored_member()))
    cast(MaskRefiner, ensemble.network).out.reset_parameters()
    mixture = noise(1, 2, 700)
    together = ensemble(mixture)
    for level in (1e-3, 1e3):
        scaled = ensemble(level * mixture)
        torch.testing.assert_close(scaled, level * together, atol=1e-5 * level, rtol=1e-3)
    silent = ensemble(torch.zeros(1, 2, 300))
    assert torch.equal(silent, torch.zeros(1, 2, 2, 300))
    one_sided = mixture * torch.tensor([1.0, 0.0])[:, None]
    assert ensemble(one_sided).isfinite().all()


def test_masks_are_extended_over_the_bins_that_a_member_does_not_see() -> None:
    config = stored_member(n_fft=64)
    config["top_bin"], config["complement"] = "zero", "instrumental"
    config["network"]["n_fft"] = 32  # the lower half
    member = instantiate(config)
    magnitude = Stft(n_fft=64, hop_length=32)(noise(1, 2, 640)).abs()
    for extends in (False, True):
        masks = refiner(member, extends_masks=extends).member_masks(noise(1, 2, 640), magnitude)
        unseen, top = masks[..., 16:, :], masks[..., 15:16, :]
        wanted = top.expand_as(unseen) if extends else torch.zeros_like(unseen)
        torch.testing.assert_close(unseen, wanted)
