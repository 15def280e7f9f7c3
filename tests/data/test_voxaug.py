import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from frametx.data.augment import ChannelSwap, Gain, Pan, PolarityFlip, TimeStretch
from frametx.data.library import Library
from frametx.data.synthetic import write_synthetic_libraries
from frametx.data.voxaug import ExtraParts, Mixup, Voxaug, VoxaugDataset

RATE = 8_000
PAIR = ("vocals", "instrumental")
FOUR = ("vocals", "drums", "bass", "other")
NUM_SAMPLES = 2_000


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Library]:
    root = tmp_path_factory.mktemp("libraries")
    folders = write_synthetic_libraries(root, seconds=4, num_files=3, sample_rate=RATE, seed=0)
    return {
        folder.name: Library.open(folder, role=folder.name, cache_dir=root / "cache")
        for folder in folders
    }


def make_dataset(
    libraries: dict[str, Library],
    *,
    extra: float = 0.3,
    seed: int = 0,
    voxaug: Voxaug | None = None,
    decode_cache_dir: Path | None = None,
) -> VoxaugDataset:
    return VoxaugDataset(
        libraries=libraries,
        seed=seed,
        sample_rate=RATE,
        num_channels=2,
        voxaug=make_voxaug(seed=seed, extra=ExtraParts(extra)) if voxaug is None else voxaug,
        decode_cache_dir=decode_cache_dir,
    )


def make_voxaug(
    *,
    level_db: tuple[float, float] | None = None,
    silent: float = 0.3,
    seed: int = 0,
    extra: ExtraParts | None = ExtraParts(0.4),  # noqa: B008 (frozen)
    mixup: Mixup | None = None,
    stems: tuple[str, ...] = PAIR,
) -> Voxaug:
    transforms = [
        Gain(min_db=-9, max_db=3),
        Pan(max_position=0.5),
        ChannelSwap(probability=0.5),
        PolarityFlip(probability=0.5),
    ]
    return Voxaug(
        seed=seed,
        stems=stems,
        default_transforms=transforms,
        level_db=None if level_db is None else {"vocals": level_db},
        silent_stem_probability=silent,
        extra=None if extra is None else {"vocals": extra},
        mixup=mixup,
    )


def plain(**options) -> Voxaug:
    return Voxaug(**({"seed": 0, "stems": PAIR} | options))


def noise_batch(num: int, *, channels: int = 2, stems: tuple[str, ...] = PAIR) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = (*stems, "extra_vocals", *(f"mixup_{stem}" for stem in stems))
    batch = {n: 0.1 * torch.randn(num, channels, 400, generator=generator) for n in names}
    return {"sample": torch.arange(num), **batch}


def rms_db(waveform: Tensor) -> Tensor:
    return 10 * waveform.square().mean(dim=(-2, -1)).log10()


@pytest.mark.parametrize("keeps_decoded", [False, True])
def test_a_sample_is_the_same_in_every_worker_order_and_copy(
    libraries: dict[str, Library], tmp_path: Path, keeps_decoded: bool
) -> None:
    samples = [[(n, NUM_SAMPLES) for n in numbers] for numbers in ([5, 0, 9], [3, 2], [8])]
    mine, theirs = (tmp_path / "mine", tmp_path / "theirs") if keeps_decoded else (None, None)
    alone = make_dataset(libraries, decode_cache_dir=mine)
    workers = make_dataset(libraries, decode_cache_dir=theirs)
    loader = DataLoader(workers, batch_sampler=samples, num_workers=2)
    for keys, batch in zip(samples, loader, strict=True):
        for row, key in enumerate(keys):
            for name, expected in alone[key].items():
                assert torch.equal(batch[name][row], expected), (key, name)


def test_samples_and_seeds_differ(libraries: dict[str, Library]) -> None:
    dataset, other = make_dataset(libraries), make_dataset(libraries, seed=1)
    assert not torch.equal(dataset[0, NUM_SAMPLES]["vocals"], dataset[1, NUM_SAMPLES]["vocals"])
    assert not torch.equal(dataset[0, NUM_SAMPLES]["vocals"], other[0, NUM_SAMPLES]["vocals"])


def test_the_share_of_second_voices_is_the_probability(libraries: dict[str, Library]) -> None:
    for probability in (0.0, 0.3, 1.0):
        voxaug = plain(extra={"vocals": ExtraParts(probability, max_parts=2)})
        for place, voice in enumerate(voxaug.extra_parts["vocals"], start=1):
            share = sum(voxaug.is_present(voice, sample) for sample in range(4_000)) / 4_000
            assert share == pytest.approx(probability**place, abs=0.03)
    batch = [make_dataset(libraries, extra=0.5)[n, NUM_SAMPLES] for n in range(16)]
    silent = [bool((item["extra_vocals"] == 0).all()) for item in batch]
    assert 0 < sum(silent) < 16
    assert "extra_vocals" not in make_dataset(libraries, extra=0)[0, NUM_SAMPLES]


def test_a_description_names_files_and_seconds(libraries: dict[str, Library]) -> None:
    dataset = make_dataset(libraries, extra=1.0)
    text = dataset.describe(7, NUM_SAMPLES)
    assert text.startswith("sample 7: vocals voice_00")
    assert "instrumental music_00" in text
    assert "extra vocals voice_00" in text
    crop = dataset.crops["vocals"].sampler.draw(7, NUM_SAMPLES)
    assert f"at {crop.start / RATE:.3f} s" in text


def test_without_transforms_a_stem_is_the_plain_sum_of_its_parts() -> None:
    batch = noise_batch(16)
    stems = plain()(batch)
    assert torch.equal(stems[:, 0], batch["vocals"])
    assert torch.equal(stems[:, 1], batch["instrumental"])
    stems = plain(extra={"vocals": ExtraParts(1)})(batch)
    assert torch.equal(stems[:, 0], batch["vocals"] + batch["extra_vocals"])
    assert torch.equal(stems[:, 1], batch["instrumental"])


def test_extra_voices_have_their_gain() -> None:
    batch = noise_batch(400)
    louder = {"vocals": ExtraParts(1, gain_db=(-12, -3))}
    extra = plain(extra=louder)(batch)[:, 0] - batch["vocals"]
    gain_db = rms_db(extra) - rms_db(batch["extra_vocals"])
    assert gain_db.min() == pytest.approx(-12, abs=0.1)
    assert gain_db.max() == pytest.approx(-3, abs=0.1)


def test_a_double_is_the_first_voice_later_and_is_not_read(
    libraries: dict[str, Library],
) -> None:
    doubling = ExtraParts(1, double_probability=1, delay_samples=(30, 90))
    voxaug, batch = plain(extra={"vocals": doubling}), noise_batch(64)
    double = voxaug(batch)[:, 0] - batch["vocals"]
    delays = set()
    for row in range(64):
        audible = double[row, 0].abs() > 1e-6
        delay = int(audible.nonzero()[0])
        delays.add(delay)
        source = batch["vocals"][row, :, : 400 - delay]
        torch.testing.assert_close(double[row, :, delay:], source, atol=1e-6, rtol=0)
    assert min(delays) >= 30
    assert max(delays) <= 90
    assert len(delays) > 20
    item = make_dataset(libraries, voxaug=voxaug)[0, NUM_SAMPLES]
    assert (item["extra_vocals"] == 0).all()


@pytest.mark.parametrize("alpha", [0.4, 1.0, 3.0])
def test_a_mixup_weighs_two_drawn_excerpts_by_a_beta_gain(alpha: float) -> None:
    batch = noise_batch(3_000)
    stems = plain(mixup=Mixup(1, alpha=alpha))(batch)
    difference = batch["vocals"] - batch["mixup_vocals"]
    gains = ((stems[:, 0] - batch["mixup_vocals"]) * difference).sum((1, 2))
    gains = gains / difference.square().sum((1, 2))
    assert gains.min() >= -1e-5
    assert gains.max() <= 1 + 1e-5
    assert gains.mean() == pytest.approx(0.5, abs=0.03)
    assert gains.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)
    for number, name in enumerate(("vocals", "instrumental")):
        expected = gains[:, None, None] * batch[name]
        expected = expected + (1 - gains)[:, None, None] * batch[f"mixup_{name}"]
        torch.testing.assert_close(stems[:, number], expected, atol=2e-5, rtol=0)


def test_a_mixup_happens_as_often_as_asked_and_to_the_stems_named() -> None:
    batch = noise_batch(2_000)
    stems = plain(mixup=Mixup(0.3, stems=("instrumental",)))(batch)
    assert torch.equal(stems[:, 0], batch["vocals"])
    changed = (stems[:, 1] != batch["instrumental"]).any(dim=2).any(dim=1)
    assert changed.float().mean() == pytest.approx(0.3, abs=0.04)


def test_a_sample_without_vocals_is_as_frequent_as_asked() -> None:
    silent = (
        plain(silent_probability={"vocals": 0.2}, silent_stem_probability=0.1)(noise_batch(4_000))
        == 0
    ).all(dim=(2, 3))
    assert silent.sum(dim=1).max() == 1
    assert silent[:, 0].float().mean() == pytest.approx(0.25, abs=0.02)
    assert silent[:, 1].float().mean() == pytest.approx(0.05, abs=0.01)


def test_peaks_are_limited_by_one_factor_for_all_stems() -> None:
    batch, limited = noise_batch(32), plain(max_peak=0.3)
    batch = {name: value if name == "sample" else value * 2 for name, value in batch.items()}
    batch["vocals"][0] *= 0.01
    batch["instrumental"][0] *= 0.01
    stems, free = limited(batch), plain()(batch)
    factor = stems[:, 0, 0, 0] / free[:, 0, 0, 0]
    torch.testing.assert_close(stems, factor[:, None, None, None] * free)
    assert stems.abs().max() <= 0.3001
    assert stems.sum(dim=1).abs().max() <= 0.3001
    assert factor[0] == 1
    assert (factor[1:] < 1).all()


def test_a_stretch_reads_more_and_leaves_the_length_that_was_asked_for(
    libraries: dict[str, Library],
) -> None:
    stretch = TimeStretch(rate=(0.7, 1.6), probability=0.5, n_fft=256)
    voxaug = plain(transforms={"vocals": [stretch]})
    dataset = make_dataset(libraries, voxaug=voxaug)
    batch = default_collate([dataset[n, NUM_SAMPLES] for n in range(8)])
    assert batch["vocals"].shape[-1] == 1.6 * NUM_SAMPLES + 128
    assert batch["instrumental"].shape[-1] == NUM_SAMPLES
    stems = voxaug(batch)
    assert stems.shape[-1] == NUM_SAMPLES
    unchanged = [torch.equal(stems[n, 0], batch["vocals"][n, :, :NUM_SAMPLES]) for n in range(8)]
    assert 0 < sum(unchanged) < 8
    assert torch.equal(stems[:, 1], batch["instrumental"])


def test_a_transform_of_one_stem_leaves_the_other_bit_by_bit() -> None:
    batch = noise_batch(8)
    flip = PolarityFlip(probability=1)
    for named in PAIR:
        for options in (
            {"transforms": {named: [flip]}},
            {
                "transforms": {stem: [] for stem in PAIR if stem != named},
                "default_transforms": [flip],
            },
        ):
            stems = plain(**options)(batch)
            for number, stem in enumerate(PAIR):
                expected = -batch[stem] if stem == named else batch[stem]
                assert torch.equal(stems[:, number], expected)


def test_a_description_says_what_is_done_to_a_sample() -> None:
    voxaug = make_voxaug(silent=0.5, level_db=(-3, 3), extra=ExtraParts(0.5), mixup=Mixup(0.5))
    batch = {n: v if n == "sample" else torch.ones_like(v) for n, v in noise_batch(16).items()}
    stems = voxaug(batch)
    for sample in range(16):
        described = voxaug.describe(sample)
        assert described == json.loads(json.dumps(described))
        parts, silent = described["parts"], described["silent_stems"]
        assert isinstance(parts, dict)
        assert isinstance(silent, list)
        assert ("mixup_vocals" in parts) == ("mixup_instrumental" in parts)
        is_silent = (stems[sample] == 0).all(dim=-1).all(dim=-1).tolist()
        assert [name in silent for name in voxaug.stems] == is_silent
        if is_silent[1]:
            continue
        expected = torch.zeros(2)
        for name in ("instrumental", "mixup_instrumental"):
            if name in parts:
                gain_db, position, names = parts[name]["gain_db"], 0.0, []
                for entry in parts[name]["transforms"]:
                    names.append(entry["transform"])
                    gain_db += entry.get("gain_db", 0.0)
                    position += entry.get("position", 0.0)
                angle = torch.tensor((position + 1) * torch.pi / 4)
                sides = 2**0.5 * torch.stack((angle.cos(), angle.sin())) * 10 ** (gain_db / 20)
                sides = sides.flip(0) if "ChannelSwap" in names else sides
                expected += -sides if "PolarityFlip" in names else sides
        torch.testing.assert_close(stems[sample, 1, :, 0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("level_db", [None, (-6.0, 6.0)])
@pytest.mark.parametrize("stems", [PAIR, FOUR])
def test_a_batch_equals_a_loop_in_any_order(
    channels: int, level_db: tuple[float, float] | None, stems: tuple[str, ...]
) -> None:
    voxaug = make_voxaug(level_db=level_db, mixup=Mixup(0.4), stems=stems)
    batch = noise_batch(16, channels=channels, stems=stems)
    together = voxaug(batch)
    assert together.shape == (16, len(stems), channels, 400)
    for row in range(16):
        alone = voxaug({name: values[row : row + 1] for name, values in batch.items()})
        torch.testing.assert_close(alone[0], together[row], rtol=1e-6, atol=1e-7)
    order = torch.randperm(16)
    shuffled = voxaug({name: values[order] for name, values in batch.items()})
    torch.testing.assert_close(shuffled, together[order], rtol=1e-6, atol=1e-7)


def test_the_order_of_the_stems_changes_nothing_but_their_order() -> None:
    options = {"level_db": (-6.0, 6.0), "mixup": Mixup(0.4)}
    batch = noise_batch(64, stems=FOUR)
    stems = make_voxaug(stems=FOUR, **options)(batch)
    assert (stems == 0).all(dim=3).all(dim=2).any(), "some stems are silent"
    turned = ("other", "vocals", "bass", "drums")
    again = make_voxaug(stems=turned, **options)(batch)
    for number, stem in enumerate(turned):  # the sum of three, below the level, is rounded
        torch.testing.assert_close(again[:, number], stems[:, FOUR.index(stem)])


def test_other_stems_beside_it_leave_a_stem_as_it_is() -> None:
    batch = noise_batch(32, stems=FOUR)
    alone = make_voxaug(silent=0, stems=("vocals", "drums"))(batch)
    among = make_voxaug(silent=0, stems=FOUR)(batch)
    assert torch.equal(alone, among[:, :2])


def test_levels_are_above_the_sum_of_the_stems_that_have_none() -> None:
    ranges = {"vocals": (-3.0, 9.0), "bass": (-12.0, -6.0)}
    voxaug = plain(stems=FOUR, level_db=ranges)
    stems = voxaug(noise_batch(500, stems=FOUR))
    above = stems[:, [1, 3]].sum(dim=1)
    for stem, (low, high) in ranges.items():
        difference_db = rms_db(stems[:, FOUR.index(stem)]) - rms_db(above)
        assert difference_db.min() == pytest.approx(low, abs=0.1)
        assert difference_db.max() == pytest.approx(high, abs=0.1)
    told = [voxaug.describe(n)["level_db"] for n in range(500)]
    drawn = torch.tensor([[one[stem] for stem in ranges] for one in told if isinstance(one, dict)])
    assert len(drawn) == 500
    assert torch.corrcoef(drawn.T)[0, 1].abs() < 0.14  # 3 standard deviations of 500 draws
    assert torch.equal(stems[:, 1], noise_batch(500, stems=FOUR)["drums"])


def test_every_stem_falls_silent_as_often_as_asked_and_one_at_most() -> None:
    voxaug = plain(
        stems=FOUR, silent_stem_probability=0.2, silent_probability={"bass": 0.1, "vocals": 0.15}
    )
    silent = (voxaug(noise_batch(6_000, stems=FOUR)) == 0).all(dim=(2, 3))
    assert silent.sum(dim=1).max() == 1
    for share, asked in zip(silent.float().mean(dim=0), (0.2, 0.05, 0.15, 0.05), strict=True):
        assert share == pytest.approx(asked, abs=0.016)


def test_extra_parts_may_lie_over_any_stems() -> None:
    extra = {"drums": ExtraParts(1), "other": ExtraParts(1, max_parts=2)}
    voxaug = plain(stems=FOUR, extra=extra)
    names = [part.name for part in voxaug.parts]
    assert names == [*FOUR, "extra_drums", "extra_other", "extra_other_2"]
    batch = {name: torch.full((1, 1, 4), 2.0**number) for number, name in enumerate(names)}
    stems = voxaug({"sample": torch.arange(1), **batch})
    assert stems[0, :, 0, 0].tolist() == [1, 2 + 16, 4, 8 + 32 + 64]


@pytest.mark.parametrize("level_db", [None, (-6.0, 6.0)])
def test_no_stem_leaks_into_the_other(level_db: tuple[float, float] | None) -> None:
    voxaug, batch = make_voxaug(level_db=level_db), noise_batch(16)
    stems = voxaug(batch)
    silence = torch.zeros_like(batch["vocals"])
    without_vocals = voxaug({**batch, "vocals": silence, "extra_vocals": silence})
    assert torch.equal(without_vocals[:, 1], stems[:, 1])
    assert (without_vocals[:, 0] == 0).all()
    without_music = voxaug({**batch, "instrumental": silence})
    assert (without_music[:, 1] == 0).all()
    # Levelling scales the vocals by a number that depends on the music; nothing else may.
    a, b = stems[:, 0].flatten(1), without_music[:, 0].flatten(1)
    cosine = torch.nn.functional.cosine_similarity(a, b)
    audible = a.abs().amax(dim=1) > 0
    torch.testing.assert_close(cosine[audible], torch.ones_like(cosine[audible]))
    if level_db is None:
        assert torch.equal(a, b)


def test_the_two_stems_draw_independently() -> None:
    batch = noise_batch(2_000)
    batch = {name: values[..., :1].sign().abs() for name, values in batch.items()} | {
        "sample": batch["sample"], "extra_vocals": torch.zeros(2_000, 2, 1),
    }  # fmt: skip
    gains = make_voxaug(silent=0.0)(batch)[:, :, 0, 0]
    assert torch.corrcoef(gains.T)[0, 1].abs() < 0.07  # 3 standard deviations of 2,000 draws


def test_at_most_one_stem_is_silent_and_as_often_as_asked() -> None:
    silent = (make_voxaug(silent=0.2)(noise_batch(3_000)) == 0).all(dim=(2, 3))
    assert silent.sum(dim=1).max() == 1
    for share in silent.float().mean(dim=0):
        assert share == pytest.approx(0.1, abs=0.02)
    assert not (make_voxaug(silent=0.0)(noise_batch(500)) == 0).all(dim=(2, 3)).any()


def test_levels_lie_within_the_asked_range() -> None:
    stems = make_voxaug(level_db=(-3.0, 9.0), silent=0.0)(noise_batch(500))
    difference_db = rms_db(stems[:, 0]) - rms_db(stems[:, 1])
    assert difference_db.min() == pytest.approx(-3, abs=0.1)
    assert difference_db.max() == pytest.approx(9, abs=0.1)


def test_silence_is_not_lifted_to_any_level() -> None:
    batch = noise_batch(8)
    quiet = {**batch, "vocals": 1e-6 * batch["vocals"], "extra_vocals": 0 * batch["vocals"]}
    stems = make_voxaug(level_db=(0.0, 0.0), silent=0.0)(quiet)
    assert stems[:, 0].abs().max() < 1e-5
    faint = {**quiet, "vocals": 0.005 * batch["vocals"]}
    stems = make_voxaug(level_db=(0.0, 0.0), silent=0.0)(faint)
    assert (rms_db(stems[:, 0]) - rms_db(stems[:, 1])).max() < -10
    empty = {**batch, "instrumental": 0 * batch["vocals"]}
    assert make_voxaug(level_db=(0.0, 0.0))(empty).isfinite().all()


def test_the_input_is_untouched_and_other_seeds_mix_otherwise() -> None:
    batch = noise_batch(4)
    before = {name: values.clone() for name, values in batch.items()}
    stems = make_voxaug(seed=0)(batch)
    assert all(torch.equal(batch[name], before[name]) for name in batch)
    assert not torch.equal(stems, make_voxaug(seed=1)(batch))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_draws_what_the_cpu_draws() -> None:
    batch = noise_batch(64)
    stems = make_voxaug()({name: values.cuda() for name, values in batch.items()})
    torch.testing.assert_close(stems.cpu(), make_voxaug()(batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: make_voxaug(level_db=(6.0, -6.0)), r"level_db.vocals \(\[6.0, -6.0\]\)"),
        (lambda: make_voxaug(silent=-0.1), r"a probability \(-0.1\)"),
        (lambda: plain(silent_probability={"vocals": 2}), r"a probability \(2\)"),
        (
            lambda: plain(silent_stem_probability=0.6, silent_probability={"vocals": 0.6}),
            "must not exceed 1 together",
        ),
        (lambda: plain(max_peak=0), r"max_peak \(0\)"),
        (lambda: ExtraParts(0.5, max_parts=0), r"max_parts \(0\)"),
        (lambda: Mixup(0.5, alpha=0), r"alpha \(0\)"),
        (lambda: Mixup(0.5, stems=()), r"stems \(\[\]\) of a mixup"),
        (
            lambda: plain(mixup=Mixup(0.5, stems=("drums",))),
            "stems of the mixup: drums must be among the stems",
        ),
        (lambda: plain(stems="vocals"), r"stems \(vocals\) must be a list of names"),
        (lambda: plain(stems=4), r"stems \(4\) must be a list of names"),
        (lambda: plain(stems=("vocals",)), r"stems \(\['vocals'\]\) must be two at least"),
        (lambda: plain(stems=("a", "a")), "each of another name"),
        (lambda: plain(stems=("sample", "a")), "sample cannot be a stem"),
        (
            lambda: plain(stems=("vocals", "extra_vocals"), extra={"vocals": ExtraParts(0.5)}),
            "extra_vocals cannot be a stem",
        ),
        (
            lambda: plain(level_db={"vocals": (0, 0), "instrumental": (0, 0)}),
            "must leave out a stem at least",
        ),
        (
            lambda: plain(level_db={"drums": (0, 0)}),
            r"level_db: drums must be among the stems \['vocals', 'instrumental'\]",
        ),
        (lambda: plain(transforms={"vocls": []}), "transforms: vocls must be among the stems"),
        (lambda: plain(extra={"drums": ExtraParts(0.5)}), "extra: drums must be among"),
        (lambda: plain(silent_probability={"drums": 0.5}), "silent_probability: drums must be"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_what_is_said_of_an_optional_stem_is_passed_over() -> None:
    batch = noise_batch(32)
    told = plain(
        optional_stems=["drums"],
        transforms={"drums": [PolarityFlip(probability=1)]},
        silent_probability={"drums": 1},
        extra={"drums": ExtraParts(1)},
    )
    assert torch.equal(told(batch), plain()(batch))


def test_none_for_a_stem_is_as_if_it_were_not_said() -> None:
    batch, flip = noise_batch(16), [PolarityFlip(probability=1)]
    nothing = {"vocals": None}
    told = plain(
        transforms=nothing,
        default_transforms=flip,
        level_db=nothing,
        silent_probability=nothing,
        extra=nothing,
    )
    assert torch.equal(told(batch), plain(default_transforms=flip)(batch))
