import os
import re
import stat
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from frametx.data.corpora import __main__ as command
from frametx.data.corpora import joining
from frametx.data.corpora.__main__ import main, parse
from frametx.data.corpora.build import build_package, built_files, built_version, settle
from frametx.data.corpora.catalogue import (
    CATALOGUE,
    MUSIC,
    NOISE,
    SPLITS,
    VOICES,
    Entry,
    Music,
    Noise,
    Speaker,
    Voices,
)
from frametx.data.corpora.demo import HELD_OUT_LANGUAGE, HELD_OUT_SONG, NOISES, build_noises
from frametx.data.corpora.music import read_record
from frametx.data.corpora.noise import faded, read_noise
from frametx.data.corpora.packages import PackageError, download_bytes, package_version, unpack
from frametx.data.corpora.plan import Plan, check_space
from frametx.data.corpora.prompts import spoken_prompts
from frametx.data.corpora.voices import (
    active_level_dbfs,
    draw_gaps,
    is_clipped,
    join_with_gaps,
    normalise_level,
    remove_rumble,
    trim_silence,
)
from frametx.data.corpora.writing import write_whole

RATE = 8_000
DEMO = Path(__file__).parents[2] / "data" / "demo"


def tone(frequency_hz: float, seconds: float, amplitude: float = 0.3) -> np.ndarray:
    time_s = np.arange(round(seconds * RATE)) / RATE
    return (amplitude * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), dtype=np.float32)


def loudest_hz(clip: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(clip)).argmax() * RATE / len(clip))


def test_trimming_gives_back_what_was_padded_but_for_the_margin() -> None:
    clip = tone(300, 0.5)
    trimmed = trim_silence(np.concatenate([silence(1), clip, silence(2)]), RATE, margin_seconds=0)
    np.testing.assert_array_equal(trimmed, clip)
    with_margin = trim_silence(np.concatenate([silence(1), clip, silence(2)]), RATE)
    assert len(with_margin) == len(clip) + 2 * round(0.04 * RATE)


def test_trimming_keeps_pauses_between_words() -> None:
    clip = np.concatenate([tone(300, 0.2), silence(0.5), tone(300, 0.2)])
    np.testing.assert_array_equal(trim_silence(clip, RATE), clip)


def test_a_silent_clip_is_trimmed_to_nothing_and_has_no_level() -> None:
    assert len(trim_silence(silence(1), RATE)) == 0
    assert len(trim_silence(silence(0), RATE)) == 0
    with pytest.raises(ValueError, match="silent"):
        active_level_dbfs(silence(1), RATE)


def test_the_level_is_that_of_a_sine_and_pauses_do_not_count() -> None:
    clip = tone(300, 1, amplitude=0.5)
    expected = 20 * np.log10(0.5 / np.sqrt(2))
    assert active_level_dbfs(clip, RATE) == pytest.approx(expected, abs=0.01)
    paused = np.concatenate([clip, silence(3), clip])
    assert active_level_dbfs(paused, RATE) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("gain", [0.01, 0.3, 3.0])
def test_levelled_clips_are_equal_whatever_level_they_came_at(gain: float) -> None:
    clip = tone(300, 0.5, amplitude=0.1)
    levelled = normalise_level(np.float32(gain) * clip, RATE, level_dbfs=-20)
    assert active_level_dbfs(levelled, RATE) == pytest.approx(-20, abs=0.01)
    np.testing.assert_allclose(
        levelled, normalise_level(clip, RATE, level_dbfs=-20), rtol=1e-4, atol=1e-6
    )


def test_levelling_never_clips_a_peaky_clip() -> None:
    clip = tone(300, 0.5, amplitude=0.01)
    clip[1000] = 0.5
    levelled = normalise_level(clip, RATE, level_dbfs=-10)
    assert np.abs(levelled).max() == pytest.approx(0.95)


def test_joined_clips_lie_at_their_places_with_silence_between() -> None:
    clips = [tone(200, 0.1), tone(300, 0.3), tone(400, 0.2)]
    gaps = [800, 1600, 0]
    joined = join_with_gaps(clips, gaps)
    assert len(joined) == sum(map(len, clips)) + sum(gaps)
    start = 0
    for clip, gap in zip(clips, gaps, strict=True):
        np.testing.assert_array_equal(joined[start : start + len(clip)], clip)
        assert not joined[start + len(clip) : start + len(clip) + gap].any()
        start += len(clip) + gap
    assert len(join_with_gaps([], [])) == 0


def test_gaps_stay_in_their_bounds_and_fill_them() -> None:
    gaps = draw_gaps(1_000, RATE, np.random.default_rng(0))
    assert 0.1 * RATE <= min(gaps) < 0.11 * RATE
    assert 0.59 * RATE < max(gaps) <= 0.6 * RATE


def test_hum_and_offset_go_and_the_voice_stays_where_it_is() -> None:
    voice = tone(220, 1)
    cleaned = remove_rumble(voice + tone(50, 1, amplitude=0.2) + np.float32(0.1), RATE)
    # Away from the ends, where cutting the hum off short spreads it over all frequencies.
    middle = slice(RATE // 4, -RATE // 4)
    np.testing.assert_allclose(cleaned[middle], voice[middle], atol=0.01)


def test_a_clip_at_full_scale_is_recognised() -> None:
    assert is_clipped(np.clip(tone(300, 0.5, amplitude=2), -1, 1))
    assert not is_clipped(tone(300, 0.5, amplitude=0.99))
    assert not is_clipped(silence(0))


def make_package(cache: Path, package: str, clips: dict[str, np.ndarray]) -> Path:
    folder = cache / package
    statement = folder / "usr" / "share" / "doc" / package / "copyright"
    statement.parent.mkdir(parents=True)
    statement.write_text("Copyright: nobody")
    (folder / "VERSION").write_text("1:2.3-4\n")
    for name, clip in clips.items():
        path = folder / "usr" / "share" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, clip, RATE)
    return folder


def two_speakers(cache: Path) -> Voices:
    make_package(
        cache,
        "chatter",
        {f"a/{n}_low.wav": tone(200, 0.8) for n in range(10)}
        | {f"b/{n}_high.wav": tone(900, 0.8) for n in range(10)}
        | {"c/9_low.wav": np.clip(tone(3_000, 0.8, amplitude=5), -1, 1)},
    )
    return Voices(
        package="chatter",
        speakers=(
            Speaker(name="low", split="train", pattern="*_low.wav", sample_rate=RATE),
            Speaker(name="high", split="validation", pattern="*_high.wav", sample_rate=RATE),
        ),
        licence="none",
        author="nobody",
        disk_mb=1,
    )


def build(entry: Entry, tmp_path: Path) -> list[tuple[int, int]]:
    steps: list[tuple[int, int]] = []
    build_package(
        entry,
        cache=tmp_path / "cache",
        output=tmp_path / "out",
        advance=lambda done, total: steps.append((done, total)),
    )
    return steps


def test_speakers_are_kept_apart_and_their_files_fill_up_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "FILE_SECONDS", 4.0)
    entry = two_speakers(tmp_path / "cache")
    steps = build(entry, tmp_path)
    assert steps == [(done, 21) for done in range(1, 22)]
    for folder, frequency_hz in (("train", 200), ("validation", 900)):
        paths = sorted((tmp_path / "out" / folder / "vocals").iterdir())
        files = [soundfile.read(path, dtype="float32") for path in paths]
        assert len(files) > 1
        assert all(len(samples) >= 4 * RATE for samples, _ in files[:-1])
        assert all(sample_rate == RATE for _, sample_rate in files)
        for samples, _ in files:
            assert loudest_hz(samples) == pytest.approx(frequency_hz, abs=2)
            assert active_level_dbfs(samples, RATE) == pytest.approx(-20, abs=0.2)
        # Ten clips of 0.8 s and ten gaps; the clipped one is left out.
        assert 8 + 10 * 0.1 <= sum(len(samples) for samples, _ in files) / RATE <= 8 + 10 * 0.6
    assert (tmp_path / "out" / "LICENSES" / "chatter.txt").read_text() == "Copyright: nobody"


def test_a_second_run_writes_only_what_is_missing_and_writes_it_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "FILE_SECONDS", 4.0)
    entry = two_speakers(tmp_path / "cache")
    build(entry, tmp_path)
    output = tmp_path / "out"
    assert built_version("chatter", output) == "1:2.3-4"
    lost, *kept = built_files("chatter", output)
    content = lost.read_bytes()
    inodes = [path.stat().st_ino for path in kept]
    lost.unlink()
    assert built_version("chatter", output) is None
    build(entry, tmp_path)
    assert built_version("chatter", output) == "1:2.3-4"
    assert lost.read_bytes() == content
    assert [path.stat().st_ino for path in kept] == inodes


def test_only_clean_tracks_are_taken_and_they_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_package(
        tmp_path / "cache",
        "nexuiz-music",
        {"music/calm.ogg": tone(300, 1), "music/sung.ogg": tone(300, 1)}
        | {"Riff/guitar.ogg": np.stack([tone(200, 1)] * 2, axis=1)}
        | {"Riff/song.ogg": np.stack([tone(900, 1)] * 2, axis=1)},
    )
    (entry,) = (music for music in MUSIC if music.package == "nexuiz-music")
    monkeypatch.setattr(Music, "tracks", property(lambda self: ("calm.ogg", "Riff")))
    build(entry, tmp_path)
    built = tmp_path / "out" / "train" / "instrumental" / "nexuiz-music"
    assert sorted(path.name for path in built.iterdir()) == ["Riff.flac", "calm.ogg"]
    source = folder / "usr" / "share" / "music" / "calm.ogg"
    assert (built / "calm.ogg").read_bytes() == source.read_bytes()


def test_a_record_is_the_sum_of_its_stems_at_a_safe_peak(tmp_path: Path) -> None:
    guitar = np.stack([tone(200, 1, amplitude=0.9), tone(300, 1, amplitude=0.9)], axis=1)
    rest = np.stack([tone(900, 1, amplitude=0.8), tone(950, 1, amplitude=0.8)], axis=1)
    folder = make_package(tmp_path, "songs", {"Riff/guitar.ogg": guitar, "Riff/song.ogg": rest})
    record, sample_rate = read_record(folder, "Riff")
    assert sample_rate == RATE
    assert np.abs(record).max() == pytest.approx(0.855)
    stems = [soundfile.read(path, dtype="float32")[0] for path in folder.rglob("*.ogg")]
    total = np.sum(stems, axis=0)
    np.testing.assert_allclose(record, total * 0.855 / np.abs(total).max(), atol=1e-6)


def test_a_track_that_another_version_lacks_is_named(tmp_path: Path) -> None:
    make_package(tmp_path / "cache", "singularity-music", {"Nebula.ogg": tone(300, 1)})
    (entry,) = (music for music in MUSIC if music.package == "singularity-music")
    with pytest.raises(PackageError, match=r"A New Journey\.ogg"):
        build(entry, tmp_path)


def test_a_file_that_cannot_be_written_whole_does_not_appear(tmp_path: Path) -> None:
    path = tmp_path / "out" / "many.flac"
    with pytest.raises(soundfile.LibsndfileError):
        write_whole(path, np.zeros((10, 9), dtype=np.float32), RATE)  # FLAC ends at 8 channels
    assert not path.exists()


def test_prompts_leave_out_tones_and_if_wished_single_words(tmp_path: Path) -> None:
    for name in ("hello", "beep", "tt-monkeys", "digits/1", "silence/1", "dictate/pause"):
        path = tmp_path / f"{name}.g722"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    prose = spoken_prompts(tmp_path, with_single_words=False)
    assert [path.stem for path in prose] == ["pause", "hello"]
    words = spoken_prompts(tmp_path, with_single_words=True)
    assert {path.parent.name for path in words} == {"dictate", "digits", tmp_path.name}


def crackle(seconds: float, amplitude: float = 0.1) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(round(seconds * RATE))
    return (amplitude * noise).astype(np.float32)


def test_noises_become_one_file_at_one_level_without_the_clipped_and_the_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_package(
        tmp_path / "cache",
        "weather",
        {
            "rain/loud.wav": crackle(1, amplitude=0.2),
            "rain/soft.wav": np.stack([crackle(1, amplitude=0.002)] * 2, axis=1),
            "rain/clipped.wav": np.clip(crackle(1, amplitude=2), -1, 1),
            "rain/nothing.wav": silence(1),
            "music/theme.wav": tone(300, 5),
        },
    )
    entry = Noise(package="weather", split="validation", licence="", author="", disk_mb=1)
    monkeypatch.setattr(Noise, "clips", property(lambda self: ("rain/*.wav", "rain/loud.wav")))
    assert build(entry, tmp_path) == [(done, 4) for done in range(1, 5)]
    (path,) = (tmp_path / "out").rglob("*.flac")
    assert path.relative_to(tmp_path / "out").as_posix() == "validation/noise/weather_01.flac"
    samples, sample_rate = soundfile.read(path, dtype="float32")
    assert (samples.ndim, sample_rate) == (1, 44_100)
    assert 2 <= len(samples) / sample_rate <= 2 + 2 * 0.3 + 0.1  # two of a second, their silences
    half = samples[: sample_rate // 2], samples[round(1.4 * sample_rate) :][: sample_rate // 2]
    assert [active_level_dbfs(part, sample_rate) for part in half] == pytest.approx(
        [-20, -20], abs=0.5
    )
    assert built_version("weather", tmp_path / "out") == "1:2.3-4"


def test_a_noise_is_cut_keeps_its_rumble_and_begins_and_ends_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "engine.wav"
    soundfile.write(path, tone(40, 3), RATE)
    noise = read_noise(path, RATE, longest_seconds=1.5)
    assert noise is not None
    assert len(noise) == pytest.approx(1.5 * RATE, abs=RATE // 50)
    assert active_level_dbfs(noise[RATE // 4 : -RATE // 4], RATE) == pytest.approx(-20, abs=0.3)
    assert loudest_hz(noise) == pytest.approx(40, abs=1)
    assert noise[0] == noise[-1] == 0
    np.testing.assert_array_equal(faded(noise[:1], RATE), noise[:1])


def test_a_noise_that_another_version_lacks_is_named(tmp_path: Path) -> None:
    make_package(tmp_path / "cache", "flare-game", {"environment/rain.ogg": tone(300, 1)})
    (entry,) = (noise for noise in NOISE if noise.package == "flare-game")
    with pytest.raises(PackageError, match=r"flare-game: no file is called environment/anvil_loop"):
        build(entry, tmp_path)


def test_noises_of_the_demo_are_built_with_their_licences(tmp_path: Path) -> None:
    for package in {noise.package for noise in NOISES}:
        patterns = [p for noise in NOISES if noise.package == package for p in noise.patterns]
        names = [pattern.replace("*", "1").replace("?", "1") for pattern in patterns]
        make_package(tmp_path / "cache", package, dict.fromkeys(names, crackle(0.2)))
    build_noises(tmp_path / "demo", tmp_path / "cache")
    for noise in NOISES:
        samples, sample_rate = soundfile.read(tmp_path / "demo" / noise.path)
        assert sample_rate == 16_000
        assert 0.2 <= len(samples) / sample_rate / len(noise.patterns) <= 0.5
        assert (tmp_path / "demo" / "LICENSES" / f"{noise.package}.txt").is_file()


def test_noises_of_one_package_are_on_one_side_in_the_corpora_and_in_the_demo() -> None:
    sides = {noise.package: noise.split for noise in NOISE}
    assert len(sides) == len(NOISE)
    assert set(sides.values()) == {"train", "validation"}
    for noise in NOISES:
        assert sides[noise.package] == noise.split, noise.name
    for noise in NOISE:
        assert noise.clips, noise.package
        assert len(set(noise.clips)) == len(noise.clips), noise.package


def test_no_package_of_music_and_no_speaker_is_in_both_splits() -> None:
    packages = [entry.package for entry in CATALOGUE]
    assert len(set(packages)) == len(packages)
    names = [speaker.name for voices in VOICES for speaker in voices.speakers]
    assert len(set(names)) == len(names)
    splits = {music.split for music in MUSIC}
    splits |= {speaker.split for voices in VOICES for speaker in voices.speakers}
    assert splits == set(SPLITS) == {"train", "development", "validation"}


def test_every_package_of_music_has_clean_tracks_named_once() -> None:
    for music in MUSIC:
        assert len(music.tracks) >= 3, music.package
        assert len(set(music.tracks)) == len(music.tracks), music.package


def test_what_the_demo_holds_out_is_held_out_here() -> None:
    assert not any(HELD_OUT_SONG in music.tracks for music in MUSIC)
    assert not any(f"-{HELD_OUT_LANGUAGE}-g722" in voices.package for voices in VOICES)


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of fake tools: the "package" is a zip, and only `tune` and `tunes` are known.

    Each question to apt-get is a line of the file `asked`.
    """
    tools = tmp_path / "tools"
    tools.mkdir()
    apt_get = f"""#!{sys.executable}
import os, sys, zipfile
with open({str(tmp_path / "asked")!r}, "a") as asked:
    print(*sys.argv[1:], file=asked)
if os.path.exists({str(tmp_path / "locked")!r}):
    sys.exit("E: Could not open lock file")
packages = [argument for argument in sys.argv[2:] if not argument.startswith("--")]
sizes = {{"tune": 12345, "tunes": 678}}
if unknown := [package for package in packages if package not in sizes]:
    for package in packages:
        if package in sizes:
            print(f"'http://localhost/{{package}}_1_all.deb' {{package}}_1_all.deb 1 SHA256:0")
    sys.exit("\\n".join("E: Unable to locate package " + package for package in unknown))
if "--print-uris" in sys.argv:
    for package in packages:
        name = f"{{package}}_1%3a2-3_all.deb"
        print(f"'http://localhost/{{name}}' {{name}} {{sizes[package]}} SHA256:0")
else:
    with zipfile.ZipFile("tune_1%3a2-3_all.deb", "w") as deb:
        deb.write({str(tmp_path / "songs.zip")!r}, "usr/share/songs.pk3")
"""
    dpkg_deb = f"""#!{sys.executable}
import os, sys, zipfile
if os.path.exists({str(tmp_path / "broken")!r}):
    sys.exit("dpkg-deb: error: lzma error")
zipfile.ZipFile(sys.argv[2]).extractall(sys.argv[3])
"""
    for name, text in (("apt-get", apt_get), ("dpkg-deb", dpkg_deb)):
        (tools / name).write_text(text)
        (tools / name).chmod(stat.S_IRWXU)
    with zipfile.ZipFile(tmp_path / "songs.zip", "w") as songs:
        songs.writestr("music/a.ogg", "not really")
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_a_package_is_unpacked_with_the_archives_in_it(debian: Path) -> None:
    folder = unpack("tune", debian / "cache")
    assert (folder / "usr" / "share" / "songs" / "music" / "a.ogg").read_text() == "not really"
    assert package_version(folder) == "1:2-3"
    assert not list(folder.rglob("*.deb"))
    assert not list(folder.rglob("*.pk3"))


def test_an_interrupted_package_is_fetched_anew(debian: Path) -> None:
    (debian / "broken").touch()
    with pytest.raises(PackageError, match="tune: dpkg-deb: error: lzma error"):
        unpack("tune", debian / "cache")
    assert not (debian / "cache" / "tune").exists()
    (debian / "broken").unlink()
    assert unpack("tune", debian / "cache").is_dir()


def test_the_plan_knows_sizes_and_what_cannot_be_had(debian: Path) -> None:
    known, unknown = (
        Music(package=package, split="train", licence="", author="", disk_mb=7)
        for package in ("tune", "noise")
    )
    plan = Plan.make((known, unknown), output=debian / "out", cache=debian / "cache")
    assert plan.downloads == {known: 12_345}
    assert plan.disk_mb == 7
    (failure,) = plan.failures
    assert failure.startswith("noise: E: Unable to locate package noise")


def times_asked(debian: Path) -> int:
    return len((debian / "asked").read_text().splitlines())


def test_apt_is_asked_once_for_all_packages(debian: Path) -> None:
    sizes, failures = download_bytes(["tune", "tunes"])
    assert sizes == {"tune": 12_345, "tunes": 678}
    assert not failures
    assert times_asked(debian) == 1
    assert download_bytes([]) == ({}, {})
    assert times_asked(debian) == 1


def test_unknown_packages_fail_alone_and_cost_one_more_question(debian: Path) -> None:
    sizes, failures = download_bytes(["tun", "tune", "noise-data", "tunes"])
    assert sizes == {"tune": 12_345, "tunes": 678}
    assert set(failures) == {"tun", "noise-data"}
    assert "Unable to locate package tun (" in str(failures["tun"])
    assert times_asked(debian) == 2
    assert download_bytes(["noise"])[0] == {}
    assert times_asked(debian) == 3


def test_what_is_wrong_with_apt_itself_is_wrong_for_every_package(debian: Path) -> None:
    (debian / "locked").touch()
    sizes, failures = download_bytes(["tune", "tunes"])
    assert not sizes
    assert [str(failure).split(" (")[0] for failure in failures.values()] == [
        "tune: E: Could not open lock file",
        "tunes: E: Could not open lock file",
    ]
    assert times_asked(debian) == 1


def test_files_of_an_earlier_split_move_and_are_not_built_anew(
    debian: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {
        "train/instrumental/colobot-common-sounds/Hope.ogg": b"music",
        "train/instrumental/colobot-common-sounds/disc 2/Quiet.ogg": b"more",
    }
    stray = {  # of a package that was interrupted: no note, and one file was made anew already
        "train/vocals/tuxpaint_da_01.flac": b"speech",
        "development/vocals/tuxpaint_da_01.flac": b"speech",
        "train/singing/synthetic_singing_tuxpaint_da_01.flac": b"singing",
        "train/vocals/tuxpaint_ca_01.flac": b"somebody else",
    }
    output = debian / "out"
    for name, content in (old | stray).items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(content)
    (output / ".built").mkdir()
    (output / ".built" / "colobot-common-sounds.txt").write_text("\n".join(["0.2.0-1", *old]))
    arguments = [f"output={output}", f"cache={debian / 'cache'}"]
    assert main([*arguments, "only=colobot-common-sounds"]) == 0
    assert re.search("colobot-common-sounds +music +finished", capsys.readouterr().err)
    found = {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in output.glob("[a-z]*/*/**/*")
        if path.is_file()
    }
    assert found == {
        (name if "tuxpaint_ca" in name else name.replace("train/", "development/")): content
        for name, content in (old | stray).items()
    }
    assert not (output / "train" / "instrumental" / "colobot-common-sounds").exists()
    credits_text = (output / "CREDITS.md").read_text()
    assert "| development/instrumental/colobot-common-sounds/ |" in credits_text
    assert built_version("colobot-common-sounds", output) == "0.2.0-1"


def test_a_package_in_its_place_stays_there(tmp_path: Path) -> None:
    entry = two_speakers(tmp_path / "cache")
    build(entry, tmp_path)
    note = (tmp_path / "out" / ".built" / "chatter.txt").read_text()
    before = built_files("chatter", tmp_path / "out")
    assert settle(entry, tmp_path / "out") == []
    assert built_files("chatter", tmp_path / "out") == before
    low, high = entry.speakers
    swapped = replace(
        entry, speakers=(replace(low, split="validation"), replace(high, split="train"))
    )
    assert len(settle(swapped, tmp_path / "out")) == 2
    assert built_version("chatter", tmp_path / "out") == "1:2.3-4"
    settle(entry, tmp_path / "out")
    assert (tmp_path / "out" / ".built" / "chatter.txt").read_text() == note


def test_too_little_space_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1000000000000 MB needed.*only="):
        check_space(1e12, (tmp_path / "out",))


def test_a_finished_package_is_credited_and_not_built_again(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    debian: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Singing is tested elsewhere, as it needs a package that not every installation has.
    monkeypatch.setattr(command, "missing_seconds", lambda speaker, output: 0.0)
    package = "festvox-ru"
    make_package(tmp_path / "cache", package, {f"{n}.wav": tone(150, 0.8) for n in range(3)})
    arguments = [f"output={tmp_path / 'out'}", f"cache={tmp_path / 'cache'}", f"only={package}"]
    assert main(arguments) == 0
    credits_text = (tmp_path / "out" / "CREDITS.md").read_text()
    rows = [line for line in credits_text.splitlines() if line.startswith("| train")]
    assert rows == [
        "| train/vocals/festvox_ru_*.flac | Nickolay V. Shmyrev | festvox-ru | 1:2.3-4 | BSD-like |"
    ]
    assert not re.search("festvox-ru +voices +finished", capsys.readouterr().err)
    built = tmp_path / "out" / "train" / "vocals" / "festvox_ru_01.flac"
    before = built.stat().st_ino
    assert main(arguments) == 0
    assert re.search("festvox-ru +voices +finished", capsys.readouterr().err)
    assert built.stat().st_ino == before


def test_a_package_that_cannot_be_had_is_named_and_the_others_are_built(
    debian: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_package(debian / "cache", "festvox-ru", {f"{n}.wav": tone(150, 0.8) for n in range(3)})
    arguments = [f"output={debian / 'out'}", f"cache={debian / 'cache'}"]
    assert main([*arguments, "only=wesnoth-1.16-music,festvox-ru"]) == 1
    assert "Unable to locate package wesnoth-1.16-music" in capsys.readouterr().err
    assert built_version("festvox-ru", debian / "out") is not None


@pytest.mark.parametrize("argument", ["ouput=here", "output=", "here", "only=no-such-package"])
def test_an_argument_that_is_not_understood_is_refused_by_name(argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        parse([argument])
    assert main([argument]) == 2


def test_the_demo_never_unpacks_into_itself() -> None:
    request = parse(["demo"])
    assert request.output == Path("data/demo")
    assert not request.cache.is_relative_to(request.output)
    with pytest.raises(ValueError, match="only="):
        parse(["demo", "only=festvox-ru"])


def test_without_apt_get_one_line_says_how_to_train_all_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "frametx.data.corpora", f"output={tmp_path / 'out'}"]
    environment = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = (done.stdout + done.stderr).splitlines()
    assert line.startswith("apt-get and dpkg-deb not found")
    assert "python -m frametx.train data=folders data.vocals=" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not DEMO.is_dir(), reason="a source distribution carries no audio")
def test_the_demo_is_small_aligned_neither_silent_nor_clipped_and_credited() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) < 13e6
    readme = (DEMO / "README.md").read_text()
    paths = sorted(DEMO.rglob("*.ogg"))
    assert len(paths) == 3 + 4 + 4 * 2 + len(NOISES)
    for path in paths:
        samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
        assert 0.05 < np.sqrt(np.square(samples).mean()) < 0.3, path
        assert np.abs(samples).max() < 0.99, path
        assert path.parent.parent.name == "validation" or path.stem in readme, path
    for noise in NOISES:
        assert f"`{noise.path.as_posix()}`" in readme
        assert f"{noise.package} " in readme
        assert (DEMO / "LICENSES" / f"{noise.package}.txt").is_file()
        assert soundfile.info(DEMO / noise.path).samplerate == 16_000
    for track in sorted((DEMO / "validation").iterdir()):
        vocals, instrumental = (
            soundfile.read(track / f"{stem}.ogg", dtype="float32", always_2d=True)
            for stem in ("vocals", "instrumental")
        )
        assert vocals[1] == instrumental[1] == 44_100
        assert vocals[0].shape == instrumental[0].shape
        assert np.abs(vocals[0] + instrumental[0]).max() < 1
        music_dbfs = 10 * np.log10(np.square(instrumental[0]).mean())
        assert active_level_dbfs(vocals[0][:, 0], 44_100) == pytest.approx(music_dbfs, abs=0.3)
