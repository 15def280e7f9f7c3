import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from frametx.data.augment import ChannelSwap, Gain, Pan, PolarityFlip, TimeStretch
from frametx.data.library import Library
from frametx.data.synthetic import write_synthetic_libraries
from frametx.data.voxaug import ExtraVocals, Mixup, Voxaug, VoxaugDataset

RATE = 8_000
NUM_SAMPLES = 2_000


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> tuple[Library, Library]:
    root = tmp_path_factory.mktemp("libraries")
    folders = write_synthetic_libraries(root, seconds=4, num_files=3, sample_rate=RATE, seed=0)
    vocals, instrumental = (
        Library.open(folder, role=folder.name, cache_dir=root / "cache") for folder in folders
    )
    return vocals, instrumental


def make_dataset(
    libraries: tuple[Library, Library],
    *,
    extra: float = 0.3,
    seed: int = 0,
    voxaug: Voxaug | None = None,
    decode_cache_dir: Path | None = None,
) -> VoxaugDataset:
    return VoxaugDataset(
        vocals=libraries[0],
        instrumental=libraries[1],
        seed=seed,
        sample_rate=RATE,
        num_channels=2,
        voxaug=make_voxaug(seed=seed, extra_vocals=ExtraVocals(extra))
        if voxaug is None
        else voxaug,
        decode_cache_dir=decode_cache_dir,
    )


def make_voxaug(
    *,
    level_db: tuple[float, float] | None = None,
    silent: float = 0.3,
    seed: int = 0,
    extra_vocals: ExtraVocals | None = ExtraVocals(0.4),  # noqa: B008 (frozen)
    mixup: Mixup | None = None,
) -> Voxaug:
    transforms = [
        Gain(min_db=-9, max_db=3),
        Pan(max_position=0.5),
        ChannelSwap(probability=0.5),
        PolarityFlip(probability=0.5),
    ]
    return Voxaug(
        seed=seed,
        vocals=transforms,
        instrumental=transforms,
        vocals_to_instrumental_db=level_db,
        silent_stem_probability=silent,
        extra_vocals=extra_vocals,
        mixup=mixup,
    )


def plain(**options) -> Voxaug:
    return Voxaug(seed=0, vocals=[], instrumental=[], **options)


def noise_batch(num: int, *, channels: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = ("vocals", "instrumental", "extra_vocals", "mixup_vocals", "mixup_instrumental")
    batch = {n: 0.1 * torch.randn(num, channels, 400, generator=generator) for n in names}
    return {"sample": torch.arange(num), **batch}


def rms_db(waveform: Tensor) -> Tensor:
    return 10 * waveform.square().mean(dim=(-2, -1)).log10()


@pytest.mark.parametrize("keeps_decoded", [False, True])
def test_a_sample_is_the_same_in_every_worker_order_and_copy(
    libraries: tuple[Library, Library], tmp_path: Path, keeps_decoded: bool
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


def test_samples_and_seeds_differ(libraries: tuple[Library, Library]) -> None:
    dataset, other = make_dataset(libraries), make_dataset(libraries, seed=1)
    assert not torch.equal(dataset[0, NUM_SAMPLES]["vocals"], dataset[1, NUM_SAMPLES]["vocals"])
    assert not torch.equal(dataset[0, NUM_SAMPLES]["vocals"], other[0, NUM_SAMPLES]["vocals"])


def test_the_share_of_second_voices_is_the_probability(libraries: tuple[Library, Library]) -> None:
    for probability in (0.0, 0.3, 1.0):
        voxaug = plain(extra_vocals=ExtraVocals(probability, max_voices=2))
        for place, voice in enumerate(voxaug.voices, start=1):
            share = sum(voxaug.is_present(voice, sample) for sample in range(4_000)) / 4_000
            assert share == pytest.approx(probability**place, abs=0.03)
    batch = [make_dataset(libraries, extra=0.5)[n, NUM_SAMPLES] for n in range(16)]
    silent = [bool((item["extra_vocals"] == 0).all()) for item in batch]
    assert 0 < sum(silent) < 16
    assert "extra_vocals" not in make_dataset(libraries, extra=0)[0, NUM_SAMPLES]


def test_a_description_names_files_and_seconds(libraries: tuple[Library, Library]) -> None:
    dataset = make_dataset(libraries, extra=1.0)
    text = dataset.describe(7, NUM_SAMPLES)
    assert text.startswith("sample 7: vocals voice_00")
    assert "instrumental music_00" in text
    assert "extra vocals voice_00" in text
    crop = dataset.vocals.sampler.draw(7, NUM_SAMPLES)
    assert f"at {crop.start / RATE:.3f} s" in text


def test_without_transforms_a_stem_is_the_plain_sum_of_its_parts() -> None:
    batch = noise_batch(16)
    stems = plain()(batch)
    assert torch.equal(stems[:, 0], batch["vocals"])
    assert torch.equal(stems[:, 1], batch["instrumental"])
    stems = plain(extra_vocals=ExtraVocals(1))(batch)
    assert torch.equal(stems[:, 0], batch["vocals"] + batch["extra_vocals"])
    assert torch.equal(stems[:, 1], batch["instrumental"])


def test_extra_voices_have_their_gain() -> None:
    batch = noise_batch(400)
    extra = plain(extra_vocals=ExtraVocals(1, gain_db=(-12, -3)))(batch)[:, 0] - batch["vocals"]
    gain_db = rms_db(extra) - rms_db(batch["extra_vocals"])
    assert gain_db.min() == pytest.approx(-12, abs=0.1)
    assert gain_db.max() == pytest.approx(-3, abs=0.1)


def test_a_double_is_the_first_voice_later_and_is_not_read(
    libraries: tuple[Library, Library],
) -> None:
    doubling = ExtraVocals(1, same_voice_probability=1, delay_samples=(30, 90))
    voxaug, batch = plain(extra_vocals=doubling), noise_batch(64)
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
        plain(silent_vocals_probability=0.2, silent_stem_probability=0.1)(noise_batch(4_000)) == 0
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
    libraries: tuple[Library, Library],
) -> None:
    stretch = TimeStretch(rate=(0.7, 1.6), probability=0.5, n_fft=256)
    voxaug = Voxaug(seed=0, vocals=[stretch], instrumental=[])
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
    for vocals, instrumental in (([flip], []), ([], [flip])):
        stems = Voxaug(seed=0, vocals=vocals, instrumental=instrumental)(batch)
        assert torch.equal(stems[:, 0], -batch["vocals"] if vocals else batch["vocals"])
        music = batch["instrumental"]
        assert torch.equal(stems[:, 1], -music if instrumental else music)


def test_a_description_says_what_is_done_to_a_sample() -> None:
    voxaug = make_voxaug(
        silent=0.5, level_db=(-3, 3), extra_vocals=ExtraVocals(0.5), mixup=Mixup(0.5)
    )
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
def test_a_batch_equals_a_loop_in_any_order(
    channels: int, level_db: tuple[float, float] | None
) -> None:
    voxaug = make_voxaug(level_db=level_db, mixup=Mixup(0.4))
    batch = noise_batch(16, channels=channels)
    together = voxaug(batch)
    assert together.shape == (16, 2, channels, 400)
    for row in range(16):
        alone = voxaug({name: values[row : row + 1] for name, values in batch.items()})
        torch.testing.assert_close(alone[0], together[row], rtol=1e-6, atol=1e-7)
    order = torch.randperm(16)
    shuffled = voxaug({name: values[order] for name, values in batch.items()})
    torch.testing.assert_close(shuffled, together[order], rtol=1e-6, atol=1e-7)


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


def test_a_range_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vocals_to_instrumental_db \(\[6.0, -6.0\]\)"):
        make_voxaug(level_db=(6.0, -6.0))
    with pytest.raises(ValueError, match=r"a probability \(-0.1\)"):
        make_voxaug(silent=-0.1)
    with pytest.raises(ValueError, match="must not exceed 1 together"):
        plain(silent_stem_probability=0.6, silent_vocals_probability=0.6)
    with pytest.raises(ValueError, match=r"max_peak \(0\)"):
        plain(max_peak=0)
    with pytest.raises(ValueError, match=r"max_voices \(0\)"):
        ExtraVocals(0.5, max_voices=0)
    with pytest.raises(ValueError, match=r"alpha \(0\)"):
        Mixup(0.5, alpha=0)
    with pytest.raises(ValueError, match=r"stems \(\['drums'\]\) of a mixup"):
        Mixup(0.5, stems=("drums",))
