"""Lists of mixtures: drawn from a seed, written, read, and refused where they are damaged."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor

from frametx.data.listed_mixtures import ListedMixtures, packages_of
from frametx.data.lists import SHIPPED, MixtureList, is_sung, read_list, speaker_in, write_list
from frametx.data.lists.__main__ import main
from frametx.data.lists.drawing import KINDS, draw_list, music_sounds, voice_sounds
from frametx.data.lists.room import Room
from frametx.data.synthetic import music, voice

RATE = 8_000
SPEAKERS = ("tuxpaint_be", "tuxpaint_fr")
ROOM = Room(decay_seconds=0.5, predelay_ms=20.0, wet_db=-6.0, pan=0.5, seed=7)


def write_corpora(root: Path, *, seconds: float = 31) -> Path:
    """What `make data` builds of the validation split, of sines: one file each."""
    rng = np.random.default_rng(0)
    for speaker in SPEAKERS:
        for place in (f"vocals/{speaker}_01", f"singing/synthetic_singing_{speaker}_01"):
            path = root / "validation" / f"{place}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            sf.write(path, voice(round(seconds * RATE), sample_rate=RATE, rng=rng), RATE)
    folder = root / "validation" / "instrumental" / "singularity-music"
    folder.mkdir(parents=True)
    for track in ("Apex", "Nebula", "Awakening"):
        sound = music(round(seconds * RATE), sample_rate=RATE, rng=rng)
        sf.write(folder / f"{track}.flac", sound, RATE)
    return root


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="module")
def drawn(corpora: Path) -> MixtureList:
    return draw_list(corpora, split="validation", per_kind=4, seed=0, about="a test")


@pytest.fixture(scope="module")
def stored(drawn: MixtureList, corpora: Path) -> Path:
    path = corpora / "list.json"
    write_list(drawn, path)
    return path


def opened(mixtures: Path | str, corpora: Path, **options) -> ListedMixtures:
    settings = {"cache_dir": corpora / "cache", "sample_rate": RATE, "num_channels": 2}
    return ListedMixtures(mixtures, root=corpora, **(settings | options))


def level_db(vocals: Tensor, instrumental: Tensor) -> float:
    return float(
        10 * (vocals.double().square().sum() / instrumental.double().square().sum()).log10()
    )


def test_a_list_is_read_as_it_was_written(drawn: MixtureList, stored: Path) -> None:
    assert read_list(stored) == drawn


def test_the_same_seed_draws_the_same_list(corpora: Path, drawn: MixtureList) -> None:
    again, other = (
        draw_list(corpora, split="validation", per_kind=4, seed=seed, about="a test")
        for seed in (0, 1)
    )
    assert again == drawn
    assert other.mixtures != drawn.mixtures


def test_kinds_levels_and_speakers_are_shared_out_evenly(drawn: MixtureList) -> None:
    for kind in KINDS:
        of_kind = [entry for entry in drawn.mixtures if entry.kind == kind]
        pairs = sorted((entry.level_db, speaker_in(entry.voice)) for entry in of_kind)
        assert pairs == [(level, speaker) for level in (-6.0, 0.0) for speaker in SPEAKERS]
        assert all(is_sung(entry.voice) == (kind != "spoken") for entry in of_kind)
        assert all((entry.room is None) == (kind != "sung_in_a_room") for entry in of_kind)
    tracks = [entry.music for entry in drawn.mixtures]
    assert {tracks.count(track) for track in tracks} == {4}  # 12 mixtures of 3 tracks


def test_two_readings_are_equal_to_the_bit(stored: Path, corpora: Path) -> None:
    first, second = opened(stored, corpora), opened(stored, corpora)
    assert len(first) == 12
    for index in range(len(first)):
        assert torch.equal(first[index].stems, second[index].stems)
        assert first[index].stems.shape == (2, 2, 10 * RATE)
    assert first.notes == []


@pytest.mark.parametrize(("sample_rate", "num_channels"), [(RATE, 2), (16_000, 1), (11_025, 2)])
def test_levels_are_those_of_the_list_at_every_rate(
    stored: Path, corpora: Path, sample_rate: int, num_channels: int
) -> None:
    mixtures = opened(stored, corpora, sample_rate=sample_rate, num_channels=num_channels)
    for index in range(0, len(mixtures), 3):
        mixture, entry = mixtures[index], mixtures.list.mixtures[index]
        assert mixture.stems.shape == (2, num_channels, 10 * sample_rate)
        assert mixture.sample_rate == sample_rate
        assert mixture.labels == {"kind": entry.kind, "level": f"{entry.level_db:g} dB"}
        assert level_db(*mixture.stems) == pytest.approx(entry.level_db, abs=0.01)


def test_mono_is_the_average_of_stereo_up_to_the_level(stored: Path, corpora: Path) -> None:
    stereo, mono = opened(stored, corpora), opened(stored, corpora, num_channels=1)
    for index in (0, len(mono) - 1):  # dry, and in a room
        (vocals, instrumental), averaged = stereo[index].stems, mono[index].stems
        assert torch.allclose(instrumental.mean(dim=0, keepdim=True), averaged[1], atol=1e-6)
        left = vocals.mean(dim=0, keepdim=True)
        scale = averaged[0].norm() / left.norm()
        assert torch.allclose(left * scale, averaged[0], atol=1e-5)


def test_stems_come_in_the_order_that_is_asked_for(stored: Path, corpora: Path) -> None:
    turned = opened(stored, corpora, stems=["instrumental", "vocals"])
    assert torch.equal(turned[3].stems.flip(0), opened(stored, corpora)[3].stems)
    assert list(turned.libraries) == ["instrumental", "vocals"]
    names = {file.name for file in turned.libraries["instrumental"].files}
    assert names == {f"singularity-music/{track}.flac" for track in ("Apex", "Nebula", "Awakening")}
    with pytest.raises(ValueError, match=r"not \['vocals', 'drums'\]: data=divided draws"):
        opened(stored, corpora, stems=["vocals", "drums"])


def test_a_dry_voice_is_the_excerpt_of_its_file(stored: Path, corpora: Path) -> None:
    mixtures = opened(stored, corpora)
    entry = mixtures.list.mixtures[0]
    start = round(entry.voice_start_seconds * RATE)
    spoken = torch.from_numpy(sf.read(corpora / entry.voice, dtype="float32")[0])
    excerpt = spoken[start : start + 10 * RATE]
    left, right = mixtures[0].stems[0]
    assert torch.equal(left, right)
    assert torch.allclose(left / left.norm(), excerpt / excerpt.norm(), atol=1e-7)


def test_the_files_of_a_mixture_are_known_by_their_contents(stored: Path, corpora: Path) -> None:
    mixtures = opened(stored, corpora)
    entry = mixtures.list.mixtures[0]
    expected = {mixtures.list.contents[file] for file in (entry.voice, entry.music)}
    assert {key.hex() for key in mixtures[0].files} == expected


def test_the_room_falls_by_60_db_after_its_delay_and_has_its_energy() -> None:
    room = replace(ROOM, predelay_ms=50.0)
    response = room.response(44_100)
    assert torch.equal(response, room.response(44_100))
    assert not torch.equal(response, replace(room, seed=8).response(44_100))
    assert response.square().sum(dim=1) == pytest.approx([1, 1], rel=0.05)
    assert response[:, : round(0.049 * 44_100)].abs().max() == 0
    early, late = (
        response[:, round(at * 44_100) : round((at + 0.05) * 44_100)].square().mean()
        for at in (0.05, 0.3)
    )
    assert float(10 * (early / late).log10()) == pytest.approx(30, abs=1.5)  # half of the decay
    correlation = torch.corrcoef(response)[0, 1]
    assert abs(correlation) < 0.05


def test_a_room_is_the_same_at_half_the_rate() -> None:
    # One second at either rate: bin k is k Hz in both spectra.
    high, low = (
        torch.fft.rfft(ROOM.response(rate), n=rate).abs()[:, 100:8_000] for rate in (44_100, 22_050)
    )
    assert torch.allclose(high, low, rtol=0.01, atol=1e-3)


def test_the_pan_moves_the_direct_sound_at_constant_power() -> None:
    click = torch.zeros(4_000)
    click[0] = 1
    left, right = replace(ROOM, pan=-0.5).apply(click, sample_rate=RATE)[:, 0]
    assert float(left) > float(right) > 0
    assert float(left**2 + right**2) == pytest.approx(2, rel=1e-5)
    middle = replace(ROOM, pan=0.0).apply(click, sample_rate=RATE)[:, 0]
    assert middle.tolist() == pytest.approx([1, 1])


def test_audibility_is_refused_to_silence() -> None:
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal(4 * RATE).astype(np.float32)
    assert voice_sounds(noise, RATE)
    assert music_sounds(noise, RATE)
    quarter = noise.copy()
    quarter[RATE:] *= 1e-3
    assert not voice_sounds(quarter, RATE)
    assert not music_sounds(quarter, RATE)


def test_missing_files_are_counted_and_the_way_to_them_is_named(
    tmp_path: Path, stored: Path
) -> None:
    with pytest.raises(ValueError, match="make data") as refused:
        opened(stored, tmp_path)
    line = str(refused.value)
    assert "7 of its 7 files are missing" in line
    assert "singularity-music, tuxpaint-stamps-default" in line or (
        "tuxpaint-stamps-default, singularity-music" in line
    )
    assert "needs pyworld, and kinds=[spoken] of this data leaves it out" in line
    assert read_list(stored).mixtures[0].voice in line
    assert "\n" not in line


def test_some_kinds_can_be_taken_alone(stored: Path, corpora: Path, tmp_path: Path) -> None:
    whole, spoken = opened(stored, corpora), opened(stored, corpora, kinds=["spoken"])
    assert len(spoken) == 4
    assert torch.equal(spoken[3].stems, whole[3].stems)
    assert not any(is_sung(file) for file in spoken.list.files)
    with pytest.raises(ValueError, match="5 of its 5 files") as refused:
        opened(stored, tmp_path, kinds=["spoken"])
    assert "pyworld" not in str(refused.value)
    with pytest.raises(ValueError, match=r"kinds=\['played'\] must be some of spoken, sung, sung_"):
        opened(stored, corpora, kinds=["played"])


def test_a_file_that_is_another_is_a_note_and_a_short_one_an_error(
    tmp_path: Path, stored: Path
) -> None:
    root = write_corpora(tmp_path / "other", seconds=31.5)
    (note,) = opened(stored, root).notes
    assert "7 of 7 files have another content" in note
    short = write_corpora(tmp_path / "short", seconds=5)
    with pytest.raises(ValueError, match=r"lasts 5\.0 s, the list needs .* run make data"):
        opened(stored, short)


def test_a_damaged_file_is_named(tmp_path: Path, stored: Path) -> None:
    root = write_corpora(tmp_path / "damaged")
    damaged = root / read_list(stored).mixtures[0].voice
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"tuxpaint_.*flac cannot be used: .*run make data"):
        opened(stored, root)


def change(stored: Path, path: Path, change_to) -> Path:
    content = json.loads(stored.read_text())
    change_to(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.pop("seconds"), "must hold about, seed, seconds, mixtures, contents"),
        (lambda c: c.update(more=1), "must hold about, seed, seconds, mixtures, contents"),
        (lambda c: c.update(seconds=-1), "seconds=-1 must be above 0"),
        (lambda c: c.update(mixtures=[]), "mixtures not empty"),
        (lambda c: c["mixtures"].append(c["mixtures"][0]), "mixture spoken_01 is there twice"),
        (lambda c: c["mixtures"][1].pop("music"), "mixture number 1: missing 1 required"),
        (lambda c: c["mixtures"][1].update(size=1), "mixture number 1: got an unexpected"),
        (lambda c: c["mixtures"][1].update(level_db="0"), "level_db='0' must be a number"),
        (lambda c: c["mixtures"][1].update(kind=""), "kind='' must be a text"),
        (lambda c: c["mixtures"][1].update(music_start_seconds=-1), "must not begin before"),
        (lambda c: c["mixtures"][9]["room"].update(pan=2), "pan between -1 and 1"),
        (lambda c: c["mixtures"][9]["room"].update(seed=0.5), "whole number as its seed"),
        (lambda c: c["mixtures"].insert(0, "x"), "mixture number 0: it must be a mapping"),
    ],
)
def test_a_damaged_list_is_refused_in_one_line(
    damage, message: str, stored: Path, tmp_path: Path
) -> None:
    path = change(stored, tmp_path / "damaged.json", damage)
    with pytest.raises(ValueError, match=r"damaged\.json") as refused:
        read_list(path)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    path.write_text('{"about": "x", ')
    with pytest.raises(ValueError, match=r"cut\.json: damaged, no JSON"):
        read_list(path)
    with pytest.raises(ValueError, match=r"nothing: no list of this name.*benchmark, development"):
        read_list("nothing")


def test_the_command_draws_a_list(
    corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "list.json"
    assert main(["benchmark", f"root={corpora}", f"output={output}", "seed=3"]) == 0
    assert "60 mixtures of 7 files" in capsys.readouterr().out
    mixtures = read_list(output)
    assert (len(mixtures.mixtures), mixtures.seed) == (60, 3)
    assert main(["--help"]) == 0
    assert "usage: python -m frametx.data.lists" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["benchmark"], "give benchmark or development, and output=FILE"),
        (["output=x.json"], "give benchmark or development, and output=FILE"),
        (["benchmark", "output=x.json", "seed=-1"], "seed=-1 must be a whole number"),
        (["benchmark", "output=x.json", "sed=1"], "sed=1: not understood"),
        (["development", "output=x.json", "root=nowhere"], "holds no audio files: run make data"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_lists_are_even(name: str) -> None:
    mixtures = read_list(name)
    split, per_kind, music, speakers = {
        "benchmark": ("validation", 20, "singularity-music", {"tuxpaint_be", "tuxpaint_fr"}),
        "development": ("development", 8, "colobot-common-sounds", {"tuxpaint_da", "tuxpaint_el"}),
    }[name]
    assert len(mixtures.mixtures) == 3 * per_kind
    for kind in KINDS:
        of_kind = [entry for entry in mixtures.mixtures if entry.kind == kind]
        for key in (lambda entry: entry.level_db, lambda entry: speaker_in(entry.voice)):
            counts = [list(map(key, of_kind)).count(value) for value in set(map(key, of_kind))]
            assert counts == [per_kind // 2] * 2
    assert all(file.startswith(f"{split}/") for file in mixtures.files)
    assert set(mixtures.files) == set(mixtures.contents)
    assert {Path(entry.music).parent.name for entry in mixtures.mixtures} == {music}
    assert {speaker_in(entry.voice) for entry in mixtures.mixtures} == speakers
    assert set(packages_of(mixtures.files)) == {music, "tuxpaint-stamps-default"}
    used = [entry.music for entry in mixtures.mixtures]
    counts = {used.count(track) for track in used}
    assert max(counts) - min(counts) <= 1


def test_files_of_unknown_origin_have_no_package() -> None:
    assert packages_of(["validation/vocals/somebody_01.flac"]) == []
    assert packages_of(["train/vocals/festvox_ru_01.flac"]) == ["festvox-ru"]
