"""Every file in conf/augment, on a batch; and what some of them promise."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from frametx.data.augment import Gain
from frametx.data.voxaug import Voxaug

PRESETS = sorted((Path(__file__).parents[3] / "conf" / "augment").glob("*.yaml"))
RATE = 44_100


def preset(name: str, stems: tuple[str, ...] = ("vocals", "instrumental")) -> Voxaug:
    (path,) = (path for path in PRESETS if path.stem == name)
    voxaug = instantiate(
        OmegaConf.create(
            {
                "seed": 5,
                "stems": list(stems),
                "audio": {"sample_rate": RATE},
                "augment": OmegaConf.load(path),
            }
        ).augment
    )
    assert isinstance(voxaug, Voxaug)
    return voxaug


def noise_batch(voxaug: Voxaug, rows: int, num_samples: int, *, channels: int = 2) -> dict:
    generator = torch.Generator().manual_seed(0)

    def noise(stem: str) -> Tensor:
        length = voxaug.input_samples(stem, num_samples)
        return 0.1 * torch.randn(rows, channels, length, generator=generator)

    return {"sample": torch.arange(rows)} | {part.name: noise(part.stem) for part in voxaug.parts}


def test_the_presets_that_are_promised_are_there() -> None:
    names = {path.stem for path in PRESETS}
    assert names >= {"none", "default", "v1", "v6_v7", "v8", "conditioned", "roformer", "waveform"}
    assert "songs" in names


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", [path.stem for path in PRESETS])
@pytest.mark.parametrize(
    "stems", [("vocals", "instrumental"), ("drums", "vocals", "other"), ("voice", "noise")]
)
def test_every_preset_runs_on_a_batch_and_alike_in_any_other(
    stems: tuple[str, ...], name: str, channels: int
) -> None:
    voxaug = preset(name, stems)
    assert voxaug.seed == 5
    batch = noise_batch(voxaug, 3, 6_000, channels=channels)
    made = voxaug(batch)
    assert made.shape == (3, len(stems), channels, 6_000)
    assert made.isfinite().all()
    alone = voxaug({key: values[1:2] for key, values in batch.items()})
    torch.testing.assert_close(alone[0], made[1], atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", [path.stem for path in PRESETS])
def test_a_preset_does_to_further_stems_what_it_does_to_the_instrumental(name: str) -> None:
    pair, three = preset(name), preset(name, ("vocals", "instrumental", "drums"))
    for voxaug in (pair, three):  # both look at all stems of a sample
        voxaug.silent_stem_probability, voxaug.max_peak, voxaug.level_db = 0.0, None, {}
    batch = noise_batch(three, 32, 3_000)
    assert torch.equal(pair(batch), three(batch)[:, :2])
    assert three.transforms["drums"] == three.transforms["instrumental"]
    assert pair.extra == three.extra


def test_the_roformer_preset_is_a_gain_and_silence_and_nothing_else() -> None:
    voxaug = preset("roformer")
    batch = noise_batch(voxaug, 2_000, 32)
    stems = voxaug(batch)
    silent = (stems == 0).all(dim=3).all(dim=2)
    assert silent.sum(dim=1).max() == 1
    assert silent.any(dim=1).float().mean() == pytest.approx(0.1, abs=0.02)
    for number, name in enumerate(voxaug.stems):
        audible = ~silent[:, number]
        gain_db = 20 * (stems[audible, number] / batch[name][audible]).log10()
        assert (gain_db.amax(dim=(1, 2)) - gain_db.amin(dim=(1, 2))).max() < 1e-4
        assert gain_db.min() == pytest.approx(-3, abs=0.01)
        assert gain_db.max() == pytest.approx(3, abs=0.01)
        (gain,) = voxaug.transforms[name]
        assert isinstance(gain, Gain)


def test_v1_leaves_out_vocals_and_adds_a_second_voice_as_often_as_the_original() -> None:
    voxaug = preset("v1")
    stems = voxaug(noise_batch(voxaug, 8_000, 2, channels=1))
    silent = (stems == 0).all(dim=3).all(dim=2)
    assert silent[:, 0].float().mean() == pytest.approx(0.025, abs=0.006)
    assert not silent[:, 1].any()
    voices = [
        sum(voxaug.is_present(part, n) for part in voxaug.parts if part.stem == "vocals")
        for n in range(8_000)
    ]
    assert sum(count >= 2 for count in voices) / 8_000 == pytest.approx(0.075, abs=0.01)
    assert sum(count >= 3 for count in voices) / 8_000 == pytest.approx(0.075**2, abs=0.003)


def test_only_presets_that_stretch_read_more_than_they_give() -> None:
    for path in PRESETS:
        voxaug = preset(path.stem)
        assert voxaug.input_samples("instrumental", 9_999) == 9_999
        needed = voxaug.input_samples("vocals", 9_999)
        assert needed == (2 * 9_999 + 1_024 if path.stem == "v6_v7" else 9_999)


def test_the_waveform_preset_keeps_all_below_full_scale() -> None:
    voxaug = preset("waveform")
    batch = noise_batch(voxaug, 8, 4_000)
    loud = {name: value if name == "sample" else 20 * value for name, value in batch.items()}
    stems = voxaug(loud)
    assert stems.abs().max() <= 1 + 1e-6
    assert stems.sum(dim=1).abs().max() == pytest.approx(1, abs=1e-5)


def test_the_songs_preset_mixes_voices_at_the_levels_of_songs() -> None:
    voxaug = preset("songs")
    stems = voxaug(noise_batch(voxaug, 1_000, 600))
    silent = (stems == 0).all(dim=3).all(dim=2)
    assert silent[:, 0].float().mean() == pytest.approx(0.04, abs=0.015)
    assert not silent[:, 1].any()
    rms = stems[~silent[:, 0]].square().mean(dim=(2, 3)).sqrt()
    level_db = 20 * (rms[:, 0] / rms[:, 1]).log10()
    assert -9.01 < level_db.min() < -8.5
    assert 3.5 < level_db.max() < 4.01


def test_the_songs_preset_gives_rooms_and_places_to_voices_alone_as_often_as_it_says() -> None:
    voxaug = preset("songs")
    shares = {
        stem: {type(transform).__name__: transform.probability for transform in chain}
        for stem, chain in voxaug.transforms.items()
    }
    assert shares["vocals"]["Reverb"] == 0.5
    assert shares["vocals"]["Pan"] == 0.4
    assert not {"Reverb", "Pan"} & set(shares["instrumental"])
    # One click: what comes after it is a room's answer.
    click = torch.zeros(1_000, 2, 4_000)
    click[..., 0] = 1
    voxaug.silent_probability, voxaug.level_db = {}, {}
    batch = {"sample": torch.arange(1_000), "vocals": click, "instrumental": click.clone()}
    vocals, instrumental = voxaug(batch).unbind(dim=1)
    # Bells and shelves have died away after 40 ms, by far.
    late_vocals, late_instrumental = (
        stem[..., 2_000:].abs().amax(dim=(1, 2)) > 1e-4 for stem in (vocals, instrumental)
    )
    assert late_vocals.float().mean() == pytest.approx(0.5, abs=0.05)
    assert not late_instrumental.any()
    peaks = vocals.abs().amax(dim=2)
    off_centre = ((peaks[:, 0] / peaks[:, 1]).log10().abs() > 0.005).float().mean()
    assert off_centre == pytest.approx(0.4, abs=0.05)


def test_an_optional_stem_that_a_run_has_not_has_no_level() -> None:
    assert preset("songs", ("voice", "noise")).level_db == {}
