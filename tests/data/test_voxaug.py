from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from frametx.data.augment import ChannelSwap, Gain, Pan, PolarityFlip
from frametx.data.library import Library
from frametx.data.synthetic import write_synthetic_libraries
from frametx.data.voxaug import Voxaug, VoxaugDataset

RATE = 8_000
NUM_SAMPLES = 2_000
CONF = Path(__file__).parents[2] / "conf" / "augment"


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
    decode_cache_dir: Path | None = None,
) -> VoxaugDataset:
    return VoxaugDataset(
        vocals=libraries[0],
        instrumental=libraries[1],
        seed=seed,
        sample_rate=RATE,
        num_channels=2,
        extra_vocals_probability=extra,
        decode_cache_dir=decode_cache_dir,
    )


def make_voxaug(
    *, level_db: tuple[float, float] | None = None, silent: float = 0.3, seed: int = 0
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
    )


def noise_batch(num: int, *, channels: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = ("vocals", "extra_vocals", "instrumental")
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
        dataset = make_dataset(libraries, extra=probability)
        drawn = [dataset._has_extra_vocals(sample) for sample in range(4_000)]
        assert sum(drawn) / 4_000 == pytest.approx(probability, abs=0.03)
    batch = [make_dataset(libraries, extra=0.5)[n, NUM_SAMPLES] for n in range(16)]
    silent = [bool((item["extra_vocals"] == 0).all()) for item in batch]
    assert 0 < sum(silent) < 16


def test_a_description_names_files_and_seconds(libraries: tuple[Library, Library]) -> None:
    dataset = make_dataset(libraries, extra=1.0)
    text = dataset.describe(7, NUM_SAMPLES)
    assert text.startswith("sample 7: vocals voice_00")
    assert "instrumental music_00" in text
    assert "extra vocals voice_00" in text
    crop = dataset.vocals.sampler.draw(7, NUM_SAMPLES)
    assert f"at {crop.start / RATE:.3f} s" in text


def test_without_transforms_the_mixture_is_the_plain_sum() -> None:
    plain = Voxaug(
        seed=0, vocals=[], instrumental=[], vocals_to_instrumental_db=None,
        silent_stem_probability=0.0,
    )  # fmt: skip
    batch = noise_batch(4)
    stems = plain(batch)
    assert torch.equal(stems[:, 0], batch["vocals"] + batch["extra_vocals"])
    assert torch.equal(stems[:, 1], batch["instrumental"])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("level_db", [None, (-6.0, 6.0)])
def test_a_batch_equals_a_loop_in_any_order(
    channels: int, level_db: tuple[float, float] | None
) -> None:
    voxaug, batch = make_voxaug(level_db=level_db), noise_batch(16, channels=channels)
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


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_augmentation_builds_and_follows_the_seed(
    path: Path, libraries: tuple[Library, Library]
) -> None:
    cfg = OmegaConf.create({"seed": 5, "augment": OmegaConf.load(path)})
    voxaug = instantiate(cfg.augment)
    assert voxaug.seed == 5
    dataset = make_dataset(libraries)
    batch = default_collate([dataset[n, NUM_SAMPLES] for n in range(4)])
    assert voxaug(batch).shape == (4, 2, 2, NUM_SAMPLES)


def test_a_range_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vocals_to_instrumental_db \(6.0, -6.0\)"):
        make_voxaug(level_db=(6.0, -6.0))
    with pytest.raises(ValueError, match=r"a probability \(-0.1\)"):
        make_voxaug(silent=-0.1)
