import inspect
import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import soundfile as sf
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

import frametx
from frametx import legacy
from frametx.audio.stft import Stft
from frametx.checkpoint import build, load_separator, save_separator
from frametx.config import conf_dir, plain
from frametx.ensemble import Rule
from frametx.execution import Execution
from frametx.faithful import OriginalOptions
from frametx.loading import CONFIG_KEYS, load_configured
from frametx.pipeline import Pipeline, stft_for
from frametx.separation_options import Absent, Augmentation, SeparationOptions
from frametx.separator import SpectrogramSeparator
from frametx.streaming import separate_waveform

RATE = 8_000
RULES = (*get_args(Rule), "min_instrumental")
EVERYTHING = SeparationOptions(
    aggressiveness=1.5,
    wiener=1,
    fill_band=True,
    absent=Absent(stem="vocals", min_seconds=0.1, fade_seconds=0.05),
    tta=Augmentation(swap=True, polarity=True, shifts=1),
)


class Share(nn.Module):
    """The vocals are a fixed share of the mixture."""

    def __init__(self, share: float, *, rate: int = RATE, channels: int = 2) -> None:
        super().__init__()
        self.share = share
        self.stems: tuple[str, ...] = ("vocals", "instrumental")
        self.sample_rate = rate
        self.num_channels = channels
        self.chunk_samples = rate // 8

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.stack([self.share * mixture, (1 - self.share) * mixture], dim=1)


class Turned(Share):
    """The same, its stems the other way round."""

    def __init__(self, share: float) -> None:
        super().__init__(share)
        self.stems = ("instrumental", "vocals")

    def forward(self, mixture: Tensor) -> Tensor:
        return super().forward(mixture).flip(1)


class Gate(nn.Module):
    """The vocals are what is loud; how loud, it hears `radius` samples to each side."""

    def __init__(self, radius: int) -> None:
        super().__init__()
        self.radius = radius
        self.stems: tuple[str, ...] = ("vocals", "instrumental")
        self.sample_rate = RATE
        self.num_channels = 2
        self.chunk_samples = RATE

    def forward(self, mixture: Tensor) -> Tensor:
        width = 2 * self.radius + 1
        kernel = torch.full((2, 1, width), 1 / width)
        loud = nn.functional.conv1d(mixture.abs(), kernel, padding=self.radius, groups=2)
        vocals = ((loud - 0.05) / 0.1).clamp(0, 1) * mixture
        return torch.stack([vocals, mixture - vocals], dim=1)


class Masked(nn.Module):
    """A network whose mask follows the magnitude."""

    def forward(self, magnitude: Tensor) -> Tensor:
        return 6 * magnitude - 2


def spectral(*, n_fft: int = 64, rate: int = RATE, chunk_frames: int = 20) -> SpectrogramSeparator:
    return SpectrogramSeparator(
        stft=Stft(n_fft=n_fft, hop_length=n_fft // 4),
        network=Masked(),
        stems=["vocals", "instrumental"],
        complement="vocals",
        sample_rate=rate,
        num_channels=2,
        chunk_frames=chunk_frames,
        scale="chunk_peak",
        top_bin="zero",
    ).eval()


def pipeline(*members: Any, options: SeparationOptions | None = None, **chosen: Any) -> Pipeline:
    options = replace(SeparationOptions() if options is None else options, **chosen)
    return Pipeline(members, options, execution=Execution(device="cpu", batch_size=2))


def noise(channels: int, length: int) -> Tensor:
    return 0.2 * torch.randn(channels, length, generator=torch.Generator().manual_seed(length))


def weights(rule: str, count: int) -> list[float] | None:
    return [1.0] * count if rule == "weighted" else None


def separated(found: Pipeline, mixture: Tensor, block: int = 1_000, rate: int = RATE) -> Tensor:
    stems = found.stream(lambda: mixture.split(block, dim=1), sample_rate=rate)
    return torch.cat(list(stems), dim=2)


@pytest.mark.parametrize("domain", ["magnitude", "waveform"])
@pytest.mark.parametrize("rule", RULES)
def test_the_stems_sum_to_the_mixture_under_every_rule(rule: str, domain: str) -> None:
    members = [spectral(), spectral(n_fft=128, rate=5_000), Share(0.3), Turned(0.6)]
    found = pipeline(*members, ensemble=rule, domain=domain, weights=weights(rule, 4))
    for channels, length in ((2, 1), (1, 100), (2, 5_000), (6, 3_001)):
        mixture = noise(channels, length)
        stems = separated(found, mixture)
        assert stems.shape == (2, channels, length)
        torch.testing.assert_close(stems.sum(dim=0), mixture, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("rate", [RATE, 11_025])
def test_no_option_breaks_the_sum_or_depends_on_the_blocks(rate: int) -> None:
    members = [spectral(), spectral(n_fft=32, rate=5_000)]
    for options in (EVERYTHING, replace(EVERYTHING, domain="waveform", ensemble="max")):
        found = pipeline(*members, options=options)
        mixture = noise(2, 9_000)
        mixture[:, 4_000:7_000] *= 1e-3
        results = [separated(found, mixture, block, rate) for block in (1_000, 777)]
        torch.testing.assert_close(results[0].sum(dim=0), mixture, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)


def quiet_in_the_middle() -> Tensor:
    mixture = noise(2, 40_000)
    mixture[:, 15_000:25_000] *= 0.05
    return mixture


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_chunks_give_what_the_whole_gives_with_every_refinement(overlap: float) -> None:
    mixture = quiet_in_the_middle()
    whole, chunked = (
        separated(
            pipeline(Gate(0), options=EVERYTHING, chunk_seconds=seconds, overlap=overlap), mixture
        )
        for seconds in (6.0, 0.31)
    )
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=0)
    kept = whole[1, :, 18_000:22_000]  # nothing is loud there
    torch.testing.assert_close(kept, mixture[:, 18_000:22_000], atol=1e-6, rtol=0)
    assert whole[0, :, :10_000].square().mean() > 0.1 * mixture[:, :10_000].square().mean()


@pytest.mark.parametrize("overlap", [0.0, 0.25])
def test_chunks_differ_from_the_whole_only_within_reach_of_a_seam(overlap: float) -> None:
    radius, chunk = 40, 8_000
    options = replace(EVERYTHING, wiener=0, tta=Augmentation())  # whose windows reach further
    mixture = quiet_in_the_middle()
    length = mixture.shape[1]
    whole, chunked = (
        separated(
            pipeline(Gate(radius), options=options, chunk_seconds=seconds, overlap=overlap), mixture
        )
        for seconds in (length / RATE, chunk / RATE)
    )
    reach = radius + stft_for(RATE).n_fft
    hop = round(chunk * (1 - overlap))
    seams = {*range(hop, length, hop), *range(chunk, length, hop), length - chunk}
    is_far = torch.ones(length, dtype=torch.bool)
    for seam in seams:
        is_far[max(0, seam - reach) : seam + reach] = False
    assert is_far.float().mean() > 0.4
    torch.testing.assert_close(chunked[..., is_far], whole[..., is_far], atol=1e-5, rtol=0)
    assert (chunked - whole).abs().max() > 1e-4  # the chunks were not one


def test_one_member_is_the_separator_itself() -> None:
    separator, mixture = spectral(), noise(2, 5_000)
    expected = separate_waveform(separator, mixture, sample_rate=RATE, batch_size=2)
    for rule in RULES[:4]:
        assert torch.equal(separated(pipeline(separator, ensemble=rule), mixture), expected)
    found = separated(pipeline(separator, remainder="vocals"), mixture)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("domain", ["magnitude", "waveform"])
def test_each_rule_is_applied_to_all_stems_but_the_remainder(domain: str) -> None:
    mixture = noise(2, 4_000)
    members = [Share(0.1), Turned(0.3), Share(0.8)]
    shares = {"min": 0.1, "max": 0.8, "mean": 0.4, "median": 0.3, "min_instrumental": 0.8}
    for rule, share in shares.items():
        stems = separated(pipeline(*members, ensemble=rule, domain=domain), mixture)
        torch.testing.assert_close(stems[0], share * mixture, atol=1e-5, rtol=0)
    chosen = {"ensemble": "weighted", "weights": [3, 1, 0], "domain": domain}
    stems = separated(pipeline(*members, **chosen), mixture)
    torch.testing.assert_close(stems[0], 0.15 * mixture, atol=1e-5, rtol=0)
    # of the instrumental the smallest is that of the share 0.8
    stems = separated(
        pipeline(*members, ensemble="min", domain=domain, remainder="vocals"), mixture
    )
    torch.testing.assert_close(stems[1], 0.2 * mixture, atol=2e-3, rtol=0)


def test_a_model_of_one_stem_can_be_refined_too() -> None:
    class One(Share):
        def __init__(self) -> None:
            super().__init__(0.25)
            self.stems = ("vocals",)

        def forward(self, mixture: Tensor) -> Tensor:
            return super().forward(mixture)[:, :1]

    mixture = noise(2, 3_000)
    stems = separated(pipeline(One(), aggressiveness=2.0), mixture)
    torch.testing.assert_close(stems[0], 0.0625 * mixture, atol=1e-5, rtol=0)
    assert separated(pipeline(One(), One(), options=EVERYTHING), mixture).shape == (1, 2, 3_000)


def test_the_band_that_a_model_does_not_hear_is_filled_if_wanted() -> None:
    mixture = noise(2, 16_000)
    member = Share(0.5, rate=4_000)
    window = torch.hann_window(512)
    for fill_band, expected in ((False, 0.0), (True, 0.5)):
        vocals = separated(pipeline(member, fill_band=fill_band), mixture)[0]
        spectra = [
            torch.stft(x, 512, window=window, return_complex=True).abs()[:, 150:250, 5:-5]
            for x in (vocals, mixture)
        ]
        assert float(spectra[0].sum() / spectra[1].sum()) == pytest.approx(expected, abs=0.02)


def test_silence_stays_silent_whatever_is_done() -> None:
    for length in (1, 10, 4_000):
        stems = separated(
            pipeline(spectral(), Share(0.3), options=EVERYTHING), torch.zeros(2, length)
        )
        assert stems.shape == (2, 2, length)
        assert not stems.any()


def test_an_empty_stream_gives_nothing() -> None:
    for options in (SeparationOptions(), EVERYTHING, SeparationOptions(faithful=True)):
        found = pipeline(spectral(), options=options)
        assert not list(found.stream(lambda: [], sample_rate=RATE))
        assert not list(found.stream(lambda: [torch.zeros(2, 0)], sample_rate=RATE))


@pytest.mark.parametrize("everything", [False, True])
def test_stems_appear_while_the_song_is_read(everything: bool) -> None:
    num_read = 0

    def endless() -> Iterator[Tensor]:
        nonlocal num_read
        while True:
            num_read += 1
            yield noise(2, 1_000)

    members = [spectral(), spectral(n_fft=128, rate=5_000)]
    found = pipeline(*members, options=EVERYTHING if everything else SeparationOptions())
    given, stems = 0, found.stream(endless, sample_rate=RATE)
    while given < 20_000:
        given += next(stems).shape[2]
    # at most the chunks of both members, a window of the Wiener filter and a stretch to decide on
    assert num_read * 1_000 - given < (60_000 if everything else 10_000)


@pytest.mark.parametrize(
    "options", [SeparationOptions(), EVERYTHING, SeparationOptions(faithful=True)]
)
def test_no_block_is_kept_longer_than_it_is_needed(options: SeparationOptions) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most_alive = 0

    def read() -> Iterator[Tensor]:
        nonlocal most_alive
        for number in range(200):
            block = noise(2, 1_000 + number)
            alive.append(weakref.ref(block))
            most_alive = max(most_alive, sum(known() is not None for known in alive))
            yield block

    found = pipeline(spectral(), options=options)
    length = sum(stems.shape[2] for stems in found.stream(read, sample_rate=RATE))
    assert length == 200 * 1_000 + 199 * 100
    assert most_alive < 80  # a window of the Wiener filter is the longest that has to be waited for


@pytest.mark.parametrize("merges", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [RATE, 11_025])
def test_faithful_separation_of_a_stream_has_its_length(
    rate: int, channels: int, merges: bool
) -> None:
    original = OriginalOptions(crop_frames=16, padding_frames=4, merge_artifacts=merges)
    found = pipeline(spectral(), spectral(), faithful=True, original=original)
    for length in (1, 63, 5_000):
        mixture = noise(channels, length)
        results = [separated(found, mixture, block, rate) for block in (1_000, 333)]
        assert results[0].shape == (2, channels, length)
        torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=1e-4)
        assert torch.isfinite(results[0]).all()
    assert not separated(found, torch.zeros(channels, 5_000)).any()
    with pytest.raises(ValueError, match="takes two channels"):
        separated(found, noise(3, 100))


def test_a_flaw_of_the_originals_is_kept_only_when_asked_for() -> None:
    loud, quiet = spectral(), spectral()
    quiet.network = nn.Hardtanh(-9.0, -8.0)  # masks nearly everything
    mixture = noise(2, 5_000)
    original = OriginalOptions(crop_frames=16, padding_frames=4)
    faithful = separated(
        pipeline(quiet, loud, faithful=True, ensemble="min_instrumental", original=original),
        mixture,
    )
    ours = separated(pipeline(quiet, loud, ensemble="min_instrumental"), mixture)
    torch.testing.assert_close(ours[1], faithful[1], atol=2e-3, rtol=0)
    assert (faithful.sum(dim=0) - mixture).abs().max() > 0.1
    torch.testing.assert_close(ours.sum(dim=0), mixture, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": "good"}, "quality=good must be one of fast, balanced, best"),
        ({"ensemble": "average"}, "ensemble=average must be one of"),
        ({"ensemble": "weighted"}, "needs one for each checkpoint"),
        ({"remainder": "drums"}, "remainder=drums must be one of"),
        (
            {"ensemble": "min_instrumental", "remainder": "instrumental"},
            "choose remainder=vocals",
        ),
        ({"overlap": 1.0}, r"overlap \(1.0\)"),
        ({"chunk_seconds": 0.0}, "at least 1 sample"),
        ({"aggressiveness": -1}, "aggressiveness"),
        ({"wiener": -1}, "wiener"),
        ({"aggressiveness_stem": "vocals"}, "does nothing with aggressiveness=1"),
        (
            {"aggressiveness": 2.0, "aggressiveness_stem": "drums"},
            "aggressiveness_stem=drums must be one of the stems",
        ),
        (
            {"absent": Absent(stem="vocals", min_seconds=0.1, fade_seconds=0.1)},
            r"absent.min_seconds must be at least twice",
        ),
        ({"absent": Absent(stem="drums")}, "absent.stem=drums must be one of the stems"),
        ({"absent": Absent(stem="vocals", threshold=1.5)}, "absent.threshold=1.5 must be between"),
        ({"tta": Augmentation(shifts=-1)}, "shifts"),
        ({"tta": Augmentation(contexts=[[1]])}, "contexts"),
        ({"faithful": True, "wiener": 1, "overlap": 0.5}, "no such overlap, wiener"),
        ({"faithful": True, "ensemble": "mean"}, "no such ensemble"),
        ({"faithful": True, "original": OriginalOptions(crop_frames=0)}, "crop_frames=0"),
    ],
)
def test_an_option_out_of_range_is_refused_before_any_work(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline(spectral(), **options)


def test_members_that_do_not_fit_are_refused() -> None:
    other = Share(0.5)
    other.stems = ("vocals", "drums")
    with pytest.raises(ValueError, match="same stems"):
        pipeline(Share(0.5), other)
    with pytest.raises(ValueError, match=r"must be one of .*, min_vocals, min_drums$"):
        pipeline(other, ensemble="min_instrumental")
    with pytest.raises(ValueError, match="one sample rate, n_fft"):
        pipeline(spectral(), spectral(n_fft=128), faithful=True)
    with pytest.raises(ValueError, match="leave it out for this checkpoint"):
        pipeline(Share(0.5), faithful=True)


def test_best_quality_is_more_passes_and_more_overlap() -> None:
    counts = {quality: pipeline(spectral(), quality=quality) for quality in ("fast", "best")}
    assert counts["fast"].num_passes == 1
    assert counts["best"].num_passes == 3  # plain, swapped, shifted: magnitudes have no polarity
    assert pipeline(Share(0.5), quality="best").num_passes == 4
    assert pipeline(spectral(), quality="best", tta=Augmentation(polarity=True)).num_passes == 4
    assert counts["fast"].options.overlap == 0.0
    chosen = pipeline(spectral(), quality="best", tta=Augmentation(shifts=0), overlap=0.1)
    assert (chosen.num_passes, chosen.options.overlap) == (2, 0.1)


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {
        "_target_": "frametx.separator.SpectrogramSeparator",
        "stft": {"_target_": "frametx.audio.stft.Stft", "n_fft": 64, "hop_length": 16},
        "network": {"_target_": "torch.nn.Identity"},
        "stems": ["vocals", "instrumental"],
        "complement": "vocals",
        "sample_rate": RATE,
        "num_channels": 2,
        "chunk_frames": 40,
        "scale": "chunk_peak",
        "top_bin": "copy",
    }
    path = tmp_path_factory.mktemp("ckpt") / "tiny.ckpt"
    save_separator(path, build(config), config, model="identity")
    return path


def test_the_python_interface_takes_files_arrays_and_tensors(tmp_path: Path, ckpt: Path) -> None:
    mixture = noise(2, 3_000)
    song = tmp_path / "song.wav"
    sf.write(song, mixture.T.numpy(), RATE, subtype="FLOAT")
    separator = frametx.load(ckpt, device="cpu")
    expected = separate_waveform(load_separator(ckpt), mixture, sample_rate=RATE)
    assert separator.stems == ("vocals", "instrumental")
    for given, options in (
        (song, {}),
        (str(song), {}),
        (mixture.numpy(), {"sample_rate": RATE}),
        (mixture.double().numpy(), {"sample_rate": RATE}),
        (mixture, {"sample_rate": RATE}),
    ):
        stems = separator.separate(given, **options)  # pyright: ignore[reportCallIssue, reportArgumentType]
        assert list(stems) == ["vocals", "instrumental"]
        for name, stem in zip(stems, expected, strict=True):
            assert type(stems[name]) is type(mixture if given is mixture else mixture.numpy())
            np.testing.assert_allclose(np.asarray(stems[name]), stem.numpy(), atol=1e-6)
    mono = separator.separate(mixture[0].numpy(), sample_rate=RATE)
    assert mono["vocals"].shape == (3_000,)
    for bad, message in (
        (mixture.numpy()[None], "give channels x samples"),
        (mixture[:, :0], "give channels x samples"),
        (mixture * float("nan"), "not finite"),
        (mixture.numpy().T, r"got shape \(3000, 2\); transpose it"),
        (torch.zeros(0, 16_000), "holds no samples"),
    ):
        with pytest.raises(ValueError, match=message):
            separator.separate(bad, sample_rate=RATE)  # pyright: ignore[reportCallIssue, reportArgumentType]
    with pytest.raises(ValueError, match=r"sample_rate=8000\.5 must be a whole number"):
        separator.separate(mixture, sample_rate=8_000.5)  # pyright: ignore[reportCallIssue, reportArgumentType]
    with pytest.raises(ValueError, match="block 1 has 1 channels"):
        list(separator.stream(lambda: [mixture, mixture[:1]], sample_rate=RATE))
    with pytest.raises(ValueError, match="need their rate"):
        separator.separate(mixture)  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_pcm_is_separated_as_its_file_is(tmp_path: Path, ckpt: Path) -> None:
    song = tmp_path / "song.wav"
    sf.write(song, noise(2, 3_000).clip(-1, 1).T.numpy(), RATE, subtype="PCM_16")
    separator = frametx.load(ckpt, device="cpu")
    pcm = sf.read(song, dtype="int16")[0].T
    expected, found = separator.separate(song), separator.separate(pcm, sample_rate=RATE)
    for stem in separator.stems:
        np.testing.assert_array_equal(found[stem], expected[stem])


def test_stems_that_are_not_finite_are_an_error_in_python_too(ckpt: Path) -> None:
    separator = frametx.load(ckpt, device="cpu")
    broken = separator.stream

    def stream(read: Callable[[], Iterable[Tensor]], *, sample_rate: int) -> Iterator[Tensor]:
        yield from (block * float("inf") for block in broken(read, sample_rate=sample_rate))

    separator.stream = stream
    with pytest.raises(ValueError, match="the model returned samples that are not finite"):
        separator.separate(noise(2, 3_000), sample_rate=RATE)


def test_loading_refuses_what_cannot_be_done(ckpt: Path) -> None:
    with pytest.raises(ValueError, match="at least one checkpoint"):
        frametx.load([])
    with pytest.raises(ValueError, match="top_bin=mirror"):
        frametx.load(ckpt, top_bin="mirror")
    with pytest.raises(TypeError, match="qualty"):
        frametx.load(ckpt, qualty="best")
    with pytest.raises(AttributeError, match="no attribute 'save'"):
        _ = frametx.save  # pyright: ignore[reportAttributeAccessIssue]
    zero = frametx.load([ckpt, ckpt], top_bin="zero", device="cpu").members
    assert [getattr(member, "top_bin", None) for member in zero] == ["zero", "zero"]


def test_a_file_of_an_original_program_is_converted_on_the_way(
    tmp_path: Path, reference: Any
) -> None:
    weights = reference("v7")["state_dict"]
    torch.save({"module." + key: value for key, value in weights.items()}, tmp_path / "model.pth")
    separator = frametx.load(tmp_path / "model.pth", device="cpu").members[0]
    assert isinstance(separator, SpectrogramSeparator)
    assert (separator.sample_rate, separator.top_bin) == (44_100, "zero")
    network = legacy.build(weights)
    for name, value in network.state_dict().items():
        assert torch.equal(separator.network.state_dict()[name], value), name
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="nor of a network that could be converted"):
        frametx.load(tmp_path / "other.pth")


def test_loading_and_separating_needs_neither_hydra_nor_lightning(ckpt: Path) -> None:
    code = (
        "import sys, json, torch, frametx\n"
        "never = ['hydra', 'omegaconf', 'lightning', 'wandb', 'librosa', 'transformers']\n"
        "rarely = ['torchaudio', 'openunmix', 'matplotlib', 'scipy', 'pandas', 'torchmetrics']\n"
        "def separate(**options):\n"
        f"    separator = frametx.load({str(ckpt)!r}, device='cpu', **options)\n"
        "    separator.separate(torch.zeros(2, 500), sample_rate=11025)\n"
        "separate(fill_band=True)\n"
        "loaded = [name for name in never + rarely if name in sys.modules]\n"
        "separate(wiener=1)\n"
        "print(json.dumps(loaded + [name for name in never if name in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600
    )
    assert json.loads(done.stdout) == []


def test_the_configuration_and_the_interface_have_the_same_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, Any] = {}
    parameters = inspect.signature(frametx.load).parameters
    monkeypatch.setattr("frametx.loading.load", lambda **given: seen.update(given))
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for entry in ("separate", "evaluate"):
            given = ["ckpt=x", "input=y"] if entry == "separate" else ["ckpt=x"]
            values = plain(compose(entry, given), CONFIG_KEYS)
            load_configured(values)
            assert seen.pop("options") == SeparationOptions()
            del seen["note"], seen["ckpt"]
            assert seen == {name: parameters[name].default for name in seen}
            absent = values["absent"] | {"stem": "drums"}
            load_configured(values | {"absent": absent})
            assert seen["options"].absent == Absent(stem="drums")
            with pytest.raises(ValueError, match=r"absent\.threshold=0\.5 does nothing without"):
                load_configured(values | {"absent": absent | {"stem": None, "threshold": 0.5}})
