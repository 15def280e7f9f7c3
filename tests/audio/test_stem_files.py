import errno
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile as sf
import torch
from av.audio.stream import AudioStream
from torch import Tensor

from frametx.audio import io, stem_files
from frametx.audio.io import INTEGER_BITS, AudioInfo, AudioWriter, probe, read_audio
from frametx.audio.stem_files import (
    CLIPPINGS,
    FORMATS,
    StemFiles,
    StemFormat,
    choose_format,
    copy_as_stem,
    find_finished,
    on_steps,
)
from frametx.audio.tags import Picture, Tags, read_tags

STEMS = ("vocals", "instrumental")
RATE = 44_100


def noise(length: int = 20_000, *, level: float = 0.1, channels: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(channels, length, generator=torch.Generator().manual_seed(seed)) * level


def song(
    path: Path,
    samples: Tensor | None = None,
    *,
    subtype: str = "PCM_16",
    format: str = "WAV",
    rate: int = RATE,
) -> Path:
    samples = noise() if samples is None else samples
    header: dict[str, Any] = {"sample_rate": rate, "num_channels": len(samples)}
    with AudioWriter(path, format=format, subtype=subtype, **header) as writer:
        writer.write(samples)
    return path


def split(mixture: Tensor, gain: float | Tensor = 0.7) -> Tensor:
    """Vocals are the mixture times a gain; the instrumental is what is left."""
    vocals = gain * mixture
    return torch.stack([vocals, mixture - vocals])


def separated(
    source: Path,
    folder: Path,
    *,
    gain: float | Tensor = 0.7,
    block_samples: int = 4_096,
    wanted: Sequence[str] = STEMS,
    **options: Any,
) -> StemFiles:
    options = {"remainder": "instrumental"} | options
    files = StemFiles(
        paths={stem: folder / stem for stem in wanted}, info=probe(source), stems=STEMS, **options
    )
    with files:
        for block in split(read_audio(source), gain).split(block_samples, dim=2):
            files.write(block)
    return files


def peaks(at: int, *, length: int = 20_000, by: float = 4.0) -> Tensor:
    """A gain that is 0.7 but for a part, which it pushes beyond full scale."""
    gain = torch.full((length,), 0.7)
    gain[at : at + 500] = by
    return gain


def steps_of(path: Path, bits: int) -> np.ndarray:
    return sf.read(path, dtype="float64")[0] * 2.0 ** (bits - 1)


@pytest.mark.parametrize(("subtype", "bits"), [("PCM_U8", 8), ("PCM_16", 16), ("PCM_24", 24)])
def test_four_stems_on_the_steps_of_a_format_add_up_to_the_mixture(subtype: str, bits: int) -> None:
    scale = 2 ** (bits - 1)
    generator = torch.Generator().manual_seed(0)
    mixture = torch.randint(-scale, scale, (2, 5_000), generator=generator).double()
    stems = (torch.rand(4, 2, 5_000, generator=generator).softmax(dim=0) * mixture / scale).float()
    stems[2] = (mixture / scale - stems[[0, 1, 3]].double().sum(dim=0)).float()
    for is_clipped in (True, False):
        steps = on_steps(stems, 2, subtype, is_clipped=is_clipped) * scale
        assert torch.equal(steps, steps.round())
        assert torch.equal(steps.sum(dim=0), mixture)


@pytest.mark.parametrize("wanted", ["same", "wav", "flac"])
@pytest.mark.parametrize(
    ("name", "format", "subtype", "rate", "channels"),
    [
        ("x.wav", "WAV", "PCM_U8", 44_100, 2),
        ("x.wav", "WAV", "PCM_16", 48_000, 1),
        ("x.wav", "WAV", "PCM_24", 96_000, 6),
        ("x.flac", "FLAC", "PCM_24", 48_000, 3),
        ("x.aiff", "AIFF", "PCM_16", 44_100, 2),
        ("x.caf", "CAF", "PCM_24", 44_100, 2),
        ("x.w64", "W64", "PCM_16", 44_100, 2),
    ],
)
def test_integer_stems_add_up_to_the_songs_own_samples(
    tmp_path: Path,
    wanted: str,
    name: str,
    format: str,
    subtype: str,
    rate: int,
    channels: int,
) -> None:
    samples = noise(5_000, channels=channels)
    source = song(tmp_path / name, samples, subtype=subtype, format=format, rate=rate)
    files = separated(source, tmp_path / "out", format=wanted)
    bits = INTEGER_BITS[subtype]
    mixture = steps_of(source, bits)
    added = sum(steps_of(path, bits) for path in files.outputs.values())
    assert np.array_equal(added, mixture)
    for path in files.outputs.values():
        info = probe(path)
        assert (info.sample_rate, info.num_channels, info.num_samples) == (rate, channels, 5_000)
        assert INTEGER_BITS[info.subtype] == bits
        assert info.format == (format if wanted == "same" else wanted.upper())
        assert path.suffix == (source.suffix if wanted == "same" else f".{wanted}")
    assert (files.clipped, files.gain_db, files.notes) == ({}, 0.0, [])


@pytest.mark.parametrize("clipping", CLIPPINGS)
def test_floats_are_kept_beyond_full_scale_whatever_clipping_says(
    tmp_path: Path, clipping: str
) -> None:
    source = song(tmp_path / "x.wav", noise(level=3.0), subtype="FLOAT")
    files = separated(source, tmp_path / "out", clipping=clipping)
    stems = torch.stack([read_audio(path) for path in files.outputs.values()])
    assert torch.equal(stems, split(read_audio(source)))
    assert (files.clipped, files.gain_db, files.notes) == ({}, 0.0, [])


@pytest.mark.parametrize("block_samples", [1_000, 4_096, 20_000])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("format", ["same", "flac"])
def test_a_stem_that_would_clip_goes_on_in_floats_and_keeps_what_was_before(
    tmp_path: Path, block_samples: int, subtype: str, format: str
) -> None:
    source = song(tmp_path / "x.wav", subtype=subtype)
    quiet = separated(source, tmp_path / "quiet", format=format)
    options: dict[str, Any] = {"format": format, "block_samples": block_samples}
    files = separated(source, tmp_path / "out", gain=peaks(12_000), **options)
    assert files.outputs["vocals"] == tmp_path / "out" / "vocals.wav"
    assert probe(files.outputs["vocals"]).subtype == "FLOAT"
    before = read_audio(quiet.outputs["vocals"])
    after = read_audio(files.outputs["vocals"])
    assert torch.equal(after[:, :12_000], before[:, :12_000])
    assert torch.equal(after[:, 12_500:], before[:, 12_500:])
    assert after.abs().max() > 1
    assert "vocals would clip: written as 32-bit float" in files.notes
    assert files.clipped == {}
    bits = INTEGER_BITS[subtype]
    added = sum(steps_of(path, bits) for path in files.outputs.values())
    assert np.array_equal(added, steps_of(source, bits))
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {path.name for path in files.outputs.values()}


def test_a_stem_that_never_clips_keeps_its_format(tmp_path: Path) -> None:
    loud = torch.ones(20_000) * 0.5
    loud[100] = 1.6
    source = song(tmp_path / "x.wav", torch.full((2, 20_000), 0.7), format="WAV")
    files = separated(source, tmp_path / "out", gain=loud)
    subtypes = {stem: probe(path).subtype for stem, path in files.outputs.items()}
    assert subtypes == {"vocals": "FLOAT", "instrumental": "PCM_16"}
    assert files.notes == ["vocals would clip: written as 32-bit float"]


def test_the_edge_of_full_scale_is_where_it_is(tmp_path: Path) -> None:
    edges = torch.tensor([[32_767.0, -32_768.0, 32_767.4]]) / 32_768
    info = AudioInfo(Path("x.wav"), 3, 8_000, 1, "WAV", "PCM_16")
    for last, expected in ((32_767.4, "PCM_16"), (32_767.6, "FLOAT"), (-32_768.6, "FLOAT")):
        edges[0, 2] = last / 32_768
        paths = {"a": tmp_path / f"{last}"}
        with StemFiles(paths=paths, info=info, stems=["a"]) as files:
            files.write(edges[None])
        assert probe(files.outputs["a"]).subtype == expected


@pytest.mark.parametrize(("subtype", "bits"), [("PCM_U8", 8), ("PCM_16", 16), ("PCM_24", 24)])
def test_scaled_stems_keep_their_balance_and_still_add_up(
    tmp_path: Path, subtype: str, bits: int
) -> None:
    source = song(tmp_path / "x.wav", subtype=subtype)
    files = separated(source, tmp_path / "out", gain=peaks(12_000), clipping="scale")
    gain = 10 ** (files.gain_db / 20)
    assert files.gain_db < -1
    mixture = steps_of(source, bits)
    stems = {stem: steps_of(path, bits) for stem, path in files.outputs.items()}
    assert all(probe(path).subtype == subtype for path in files.outputs.values())
    assert np.array_equal(sum(stems.values()), np.rint(mixture * gain))
    expected = split(read_audio(source), peaks(12_000)).double() * gain * 2 ** (bits - 1)
    for row, steps in zip(expected, stems.values(), strict=True):
        assert np.abs(steps.T - row.numpy()).max() <= 2.5
    loudest = max(np.abs(steps).max() for steps in stems.values())
    assert 2 ** (bits - 1) * 0.95 < loudest < 2 ** (bits - 1) - 1
    assert files.clipped == {}
    (note,) = files.notes
    assert note.startswith("vocals, instrumental would clip: all stems have a gain of -")


def test_without_a_clip_scale_changes_nothing(tmp_path: Path) -> None:
    source = song(tmp_path / "x.wav")
    plain = separated(source, tmp_path / "plain", clipping="clip")
    files = separated(source, tmp_path / "out", clipping="scale")
    assert (files.gain_db, files.notes) == (0.0, [])
    for stem in STEMS:
        assert files.outputs[stem].read_bytes() == plain.outputs[stem].read_bytes()


def test_what_one_stem_loses_by_clipping_stays_in_the_remainder(tmp_path: Path) -> None:
    source = song(tmp_path / "x.wav", noise(level=0.2))
    files = separated(source, tmp_path / "out", gain=1.5, clipping="clip")
    mixture, vocals, instrumental = (
        sf.read(path, dtype="int16")[0].astype(int) for path in (source, *files.outputs.values())
    )
    expected = int((np.abs(mixture * 1.5 + 0.25) > 32_767.5).sum())
    assert expected > 0
    assert files.clipped == {"vocals": expected}
    assert np.array_equal(vocals + instrumental, mixture)


@pytest.mark.parametrize("format", ["mp3", "ogg"])
def test_lossy_stems_sound_like_the_stems(tmp_path: Path, format: str) -> None:
    source = song(tmp_path / "x.wav")
    for clipping in CLIPPINGS:
        files = separated(source, tmp_path / clipping, format=format, clipping=clipping)
        for expected, path in zip(split(read_audio(source)), files.outputs.values(), strict=True):
            assert path.suffix == f".{format}"
            decoded = read_audio(path)
            assert decoded.shape == expected.shape
            likeness = torch.corrcoef(torch.stack([decoded[0, 1_000:], expected[0, 1_000:]]))[0, 1]
            assert likeness > (0.9 if format == "mp3" else 0.99)  # white noise is hard on an mp3
        assert (files.clipped, files.gain_db, files.notes) == ({}, 0.0, [])
        assert len(list((tmp_path / clipping).iterdir())) == 2


def test_a_lossy_stem_beyond_full_scale_follows_the_same_rule(tmp_path: Path) -> None:
    source = song(tmp_path / "x.wav", subtype="FLOAT")
    stems = split(read_audio(source), peaks(12_000))
    files = separated(source, tmp_path / "f", format="ogg", gain=peaks(12_000))
    assert torch.equal(read_audio(files.outputs["vocals"]), stems[0])
    assert files.notes[0] == "vocals would clip: written as 32-bit float"

    files = separated(source, tmp_path / "s", format="ogg", gain=peaks(12_000), clipping="scale")
    assert [path.suffix for path in files.outputs.values()] == [".ogg", ".ogg"]
    assert files.gain_db == pytest.approx(20 * np.log10(0.98 / float(stems.abs().max())))
    decoded = read_audio(files.outputs["vocals"])
    energy_db = 10 * torch.log10(decoded.square().sum() / stems[0].square().sum())
    assert float(energy_db) == pytest.approx(files.gain_db, abs=0.5)

    files = separated(source, tmp_path / "c", format="ogg", gain=peaks(12_000), clipping="clip")
    assert files.clipped == {
        stem: int((row.abs() > 1).sum()) for stem, row in zip(STEMS, stems, strict=True)
    }


def test_only_the_stems_asked_for_are_written(tmp_path: Path) -> None:
    source = song(tmp_path / "x.wav")
    both = separated(source, tmp_path / "both")
    one = separated(source, tmp_path / "one", wanted=["instrumental"])
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["instrumental.wav"]
    assert one.outputs["instrumental"].read_bytes() == both.outputs["instrumental"].read_bytes()


def test_the_stems_of_an_m4a_are_float_wavs_and_say_so(tmp_path: Path) -> None:
    source = tmp_path / "x.m4a"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("alac", rate=RATE, layout="stereo")
        assert isinstance(stream, AudioStream)
        frame = av.AudioFrame.from_ndarray(noise(4_096).numpy(), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = RATE, 0
        container.start_encoding()
        resampler = av.AudioResampler("s16p", "stereo", RATE, frame_size=stream.frame_size)
        for piece in [*resampler.resample(frame), None]:
            container.mux(stream.encode(piece))
    files = separated(source, tmp_path / "out")
    stems = torch.stack([read_audio(path).double() for path in files.outputs.values()])
    assert torch.equal(stems.sum(dim=0), read_audio(source).double())
    assert {path.name for path in files.outputs.values()} == {"vocals.wav", "instrumental.wav"}
    assert files.notes == ["MOV/ALAC cannot be written here: the stems are WAV/FLOAT"]


def test_the_size_of_the_blocks_does_not_matter(tmp_path: Path) -> None:
    source = song(tmp_path / "x.wav")
    for clipping in CLIPPINGS:
        contents = []
        for size in (333, 20_000):
            folder = tmp_path / f"{clipping}{size}"
            options: dict[str, Any] = {"clipping": clipping, "block_samples": size}
            files = separated(source, folder, gain=peaks(7_000), **options)
            contents.append([read_audio(path) for path in files.outputs.values()])
        assert all(torch.equal(a, b) for a, b in zip(*contents, strict=True))


@pytest.mark.parametrize("format", FORMATS)
def test_tags_and_cover_follow_into_every_format(tmp_path: Path, format: str) -> None:
    tags = Tags({"title": "Loreley", "artist": "A"}, (Picture(b"\x89PNG fake", "image/png"),))
    source = song(tmp_path / "x.aiff", format="AIFF")
    files = separated(source, tmp_path / "out", format=format, tags=tags, gain=0.5)
    for stem, path in files.outputs.items():
        read = read_tags(path)
        assert read.text == {"title": f"Loreley ({stem.title()})", "artist": "A"}
        assert read.pictures == tags.pictures
    bits = 16
    if format not in ("mp3", "ogg"):
        added = sum(steps_of(path, bits) for path in files.outputs.values())
        assert np.array_equal(added, steps_of(source, bits))


def test_tags_follow_a_stem_that_became_floats_and_where_only_libsndfile_writes(
    tmp_path: Path,
) -> None:
    tags = Tags({"title": "Loreley", "albumartist": "B"})
    files = separated(song(tmp_path / "x.wav"), tmp_path / "a", gain=peaks(500), tags=tags)
    assert read_tags(files.outputs["vocals"]).text["title"] == "Loreley (Vocals)"
    assert files.notes[0] == "vocals would clip: written as 32-bit float"
    source = song(tmp_path / "x.caf", format="CAF")
    files = separated(source, tmp_path / "b", tags=tags)
    assert read_tags(files.outputs["vocals"]).text == {"title": "Loreley (Vocals)"}
    files = separated(song(tmp_path / "x.au", format="AU"), tmp_path / "c", tags=tags)
    assert files.notes == [
        "tags of the stems: its format takes no tags: use wav, aiff, flac, ogg, opus, mp3 or m4a"
    ]


@pytest.mark.parametrize("clipping", CLIPPINGS)
@pytest.mark.parametrize("format", ["same", "ogg"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_a_stop_in_the_middle_leaves_nothing_and_keeps_the_earlier_files(
    tmp_path: Path, clipping: str, format: str, error: type[BaseException]
) -> None:
    source = song(tmp_path / "x.wav")
    out = tmp_path / "deep" / "out"
    options: dict[str, Any] = {"format": format, "clipping": clipping}
    earlier = separated(source, out, **options)
    contents = {path: path.read_bytes() for path in earlier.outputs.values()}
    for folder in (out, tmp_path / "fresh" / "folder"):
        files = StemFiles(
            paths={stem: folder / stem for stem in STEMS},
            info=probe(source),
            stems=STEMS,
            **options,
        )

        def stop_after_some(files: StemFiles = files) -> None:
            with files:
                files.write(split(noise(), 0.7))
                files.write(split(noise(), 20.0))
                raise error

        with pytest.raises(error):
            stop_after_some()
    assert {path: path.read_bytes() for path in out.iterdir()} == contents
    assert not (tmp_path / "fresh").exists()


def test_nothing_has_its_final_name_before_all_is_whole(tmp_path: Path) -> None:
    source = song(tmp_path / "x.wav")
    paths = {stem: tmp_path / "out" / stem for stem in STEMS}
    with StemFiles(paths=paths, info=probe(source), stems=STEMS, remainder="vocals") as files:
        files.write(split(noise()))
        names = [path.name for path in (tmp_path / "out").iterdir()]
        assert len(names) == 2
        assert all(name.startswith(".") and name.endswith(".part") for name in names)
        assert max(len(name) for name in names) < 32
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        f"{stem}.wav" for stem in STEMS
    )


def test_a_folder_in_the_way_leaves_none_of_the_stems(tmp_path: Path) -> None:
    source = song(tmp_path / "x.wav")
    (tmp_path / "out" / "instrumental.wav").mkdir(parents=True)
    with pytest.raises(OSError, match=r"in the way.*instrumental\.wav"):
        separated(source, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["instrumental.wav"]


def test_a_name_as_long_as_a_file_system_takes_is_written(tmp_path: Path) -> None:
    source = song(tmp_path / "x.wav")
    name = "ü" * 125
    files = StemFiles(paths={"vocals": tmp_path / name}, info=probe(source), stems=STEMS)
    with files:
        files.write(split(noise(), 40.0))
    assert files.outputs["vocals"].name == f"{name}.wav"
    assert files.outputs["vocals"].is_file()


def test_a_dot_in_a_name_is_no_suffix(tmp_path: Path) -> None:
    source = song(tmp_path / "x.wav")
    paths = {"vocals": tmp_path / "01. Intro"}
    with StemFiles(paths=paths, info=probe(source), stems=STEMS, format="flac") as files:
        files.write(split(noise()))
    assert files.outputs == {"vocals": tmp_path / "01. Intro.flac"}
    assert (tmp_path / "01. Intro.flac").is_file()


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_a_disk_that_is_full_ends_in_one_line_and_leaves_nothing(
    tmp_path: Path, format: str
) -> None:
    source = song(tmp_path / "x.wav")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(OSError, match="is it full") as caught:
            separated(source, tmp_path / "out", format=format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path / "out") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["x.wav"]


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "mp3"])
def test_a_disk_without_room_for_the_cover_leaves_nothing(tmp_path: Path, format: str) -> None:
    source = song(tmp_path / "x.wav")
    tags = Tags({"title": "x"}, (Picture(bytes(400_000), "image/png"),))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(OSError, match="out") as caught:
            separated(source, tmp_path / "out", format=format, tags=tags)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value).endswith(f"{tmp_path / 'out' / 'vocals'}.{format}'")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["x.wav"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_while_names_are_given_a_stop_waits_and_an_error_takes_all_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    place = AudioWriter.place
    placed: list[Path] = []

    def fail_at_the_second(writer: AudioWriter) -> None:
        if len(placed) == 1:
            placed.append(writer.path)
            raise error
        place(writer)
        placed.append(writer.path)

    monkeypatch.setattr(AudioWriter, "place", fail_at_the_second)
    paths = {stem: tmp_path / "out" / stem for stem in STEMS}
    files = StemFiles(paths=paths, info=described("WAV", "PCM_16"), stems=STEMS)

    def write_all() -> None:
        with files:
            files.write(split(noise()))

    with pytest.raises(error):
        write_all()
    names = sorted(path.name for path in tmp_path.rglob("*.*"))
    assert names == (["instrumental.wav", "vocals.wav"] if error is KeyboardInterrupt else [])


def test_a_folder_that_takes_no_files_is_named(tmp_path: Path) -> None:
    source = song(tmp_path / "x.wav")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OSError, match="out") as caught:
        separated(source, tmp_path / "out")
    assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST)
    assert "\n" not in str(caught.value)


def test_a_wav_never_grows_beyond_what_it_can_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "WAV_BYTES", 50_000)
    with pytest.raises(OSError, match="a wav holds 4 GiB"):
        song(tmp_path / "x.wav")
    assert not list(tmp_path.iterdir())


def test_a_spill_beyond_four_gigabytes_is_rf64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = song(tmp_path / "x.wav")
    monkeypatch.setattr(stem_files, "WAV_BYTES", 100_000)  # 80 kB of integers, 160 kB of floats
    tags = Tags({"title": "Loreley"})
    files = separated(source, tmp_path / "out", gain=peaks(500), tags=tags)
    info = probe(files.outputs["vocals"])
    assert (info.format, info.subtype, info.path.suffix) == ("RF64", "FLOAT", ".wav")
    assert read_tags(info.path).text == {"title": "Loreley (Vocals)"}


def described(format: str, subtype: str, *, rate: int = RATE, channels: int = 2) -> AudioInfo:
    return AudioInfo(Path("x.xyz"), 1_000, rate, channels, format, subtype)


@pytest.mark.parametrize(
    ("format", "subtype", "wanted", "expected"),
    [
        ("WAV", "PCM_16", "flac", ("FLAC", "PCM_16", ".flac")),
        ("WAV", "PCM_U8", "flac", ("FLAC", "PCM_S8", ".flac")),
        ("AIFF", "PCM_S8", "wav", ("WAV", "PCM_U8", ".wav")),
        ("FLAC", "PCM_24", "wav", ("WAV", "PCM_24", ".wav")),
        ("WAV", "DOUBLE", "wav", ("WAV", "DOUBLE", ".wav")),
        ("MP3", "MPEG_LAYER_III", "wav", ("WAV", "FLOAT", ".wav")),
        ("MP3", "MPEG_LAYER_III", "flac", ("FLAC", "PCM_24", ".flac")),
        ("MOV", "AAC", "mp3", ("MP3", "MPEG_LAYER_III", ".mp3")),
        ("MOV", "AAC", "ogg", ("OGG", "VORBIS", ".ogg")),
        ("OGG", "VORBIS", "same", ("OGG", "VORBIS", ".ogg")),
    ],
)
def test_the_depth_is_kept_where_the_format_has_it(
    format: str, subtype: str, wanted: str, expected: tuple[str, str, str]
) -> None:
    chosen = choose_format(described(format, subtype), wanted)
    assert (chosen.container, chosen.subtype, chosen.suffix) == expected
    assert chosen.notes == ()


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_32", "DOUBLE"])
def test_flac_says_what_depth_it_cannot_keep(subtype: str) -> None:
    chosen = choose_format(described("WAV", subtype), "flac")
    assert chosen.subtype == "PCM_24"
    assert chosen.notes == (f"flac cannot hold {subtype}: the stems are PCM_24",)


@pytest.mark.parametrize(("hours", "container"), [(1, "WAV"), (4, "RF64")])
def test_a_format_that_cannot_be_written_becomes_float_wav_and_says_so(
    hours: int, container: str
) -> None:
    info = AudioInfo(Path("x.mp2"), hours * 3_600 * 44_100, 44_100, 2, "MP3", "MPEG_LAYER_II")
    chosen = choose_format(info)
    assert (chosen.container, chosen.subtype, chosen.suffix) == (container, "FLOAT", ".wav")
    assert chosen.notes == (
        f"MP3/MPEG_LAYER_II cannot be written here: the stems are {container}/FLOAT",
    )


@pytest.mark.parametrize(
    ("rate", "channels", "wanted", "ways"),
    [
        (96_000, 2, "mp3", "use format=flac or format=wav"),
        (44_100, 6, "mp3", "use format=flac or format=wav"),
        (44_100, 12, "flac", "use format=wav"),
    ],
)
def test_a_song_that_does_not_fit_is_refused_before_any_work(
    rate: int, channels: int, wanted: str, ways: str
) -> None:
    info = described("WAV", "PCM_16", rate=rate, channels=channels)
    said = rf"x\.xyz: format={wanted} cannot hold {rate} Hz with {channels} channel\(s\): {ways}$"
    with pytest.raises(ValueError, match=said):
        choose_format(info, wanted)


def test_a_suffix_is_the_songs_only_where_it_belongs_to_the_format() -> None:
    for name, suffix in (("x.WAV", ".WAV"), ("stdin", ".wav"), ("x.m4a", ".wav")):
        info = AudioInfo(Path(name), 10, 8_000, 1, "WAV", "PCM_16")
        assert choose_format(info).suffix == suffix


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"format": "aac"}, "format=aac must be one of same, wav"),
        ({"clipping": "no"}, "clipping=no must be one of float, scale, clip"),
        ({"remainder": "drums"}, "remainder=drums must be one of the stems"),
        ({"paths": {"drums": Path("x")}}, r"stems=\['drums'\]: this model separates"),
    ],
)
def test_a_wrong_option_is_refused(wrong: dict[str, Any], message: str) -> None:
    right: dict[str, Any] = {"paths": {"vocals": Path("x")}, "stems": STEMS}
    right |= {"info": described("WAV", "PCM_16")} | wrong
    with pytest.raises(ValueError, match=message):
        StemFiles(**right)


def test_finished_stems_are_found_whatever_became_of_them(tmp_path: Path) -> None:
    source = song(tmp_path / "x.flac", torch.full((2, 20_000), 0.7), format="FLAC")
    paths = {stem: tmp_path / "out" / stem for stem in STEMS}
    format = choose_format(probe(source))
    assert find_finished(paths, format) is None
    gain = torch.full((20_000,), 0.5)
    gain[9_000] = 1.6
    files = separated(source, tmp_path / "out", gain=gain)
    assert find_finished(paths, format) == files.outputs
    assert {path.suffix for path in files.outputs.values()} == {".wav", ".flac"}
    files.outputs["vocals"].unlink()
    assert find_finished(paths, format) is None
    assert isinstance(format, StemFormat)


def test_a_song_is_never_replaced_by_its_stem(tmp_path: Path) -> None:
    source = song(tmp_path / "vocals.wav")
    for format in ("same", "flac"):  # the second may have to go on as wav
        with pytest.raises(ValueError, match=r"vocals\.wav is the song itself: choose another"):
            separated(source, tmp_path, format=format)
    assert [path.name for path in tmp_path.iterdir()] == ["vocals.wav"]


def test_a_copied_song_is_the_song_under_a_stems_name(tmp_path: Path) -> None:
    source = song(tmp_path / "x.FLAC", format="FLAC")
    copy = copy_as_stem(source, tmp_path / "out" / "1. x" / "instrumental")
    assert copy == tmp_path / "out" / "1. x" / "instrumental.FLAC"
    assert copy.read_bytes() == source.read_bytes()
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    with pytest.raises(ValueError, match="is the song itself"):
        copy_as_stem(copy, copy.parent / "instrumental")


@pytest.mark.parametrize(
    ("format", "subtype", "channels", "written"),
    [
        ("WAV", "IMA_ADPCM", 2, "PCM_16"),
        ("WAV", "MS_ADPCM", 2, "PCM_16"),
        ("WAV", "GSM610", 1, "PCM_16"),
        ("WAV", "G721_32", 1, "PCM_16"),
        ("WAV", "NMS_ADPCM_16", 1, "PCM_16"),
        ("WAV", "ULAW", 2, "PCM_16"),
        ("AU", "G723_24", 1, "PCM_16"),
        ("AIFF", "ALAW", 2, "PCM_16"),
        ("CAF", "ALAC_16", 2, "PCM_16"),
        ("CAF", "ALAC_24", 2, "PCM_24"),
        ("XI", "DPCM_16", 1, "PCM_16"),
    ],
)
def test_stems_of_a_coding_by_blocks_keep_the_length_and_add_up(
    tmp_path: Path, format: str, subtype: str, channels: int, written: str
) -> None:
    samples = noise(7_777, channels=channels, level=0.1)
    rate = 8_000 if subtype.startswith("NMS") else RATE
    source = song(tmp_path / "x", samples, format=format, subtype=subtype, rate=rate)
    files = separated(source, tmp_path / "out")
    length = read_audio(source).shape[1]
    bits = INTEGER_BITS[written]
    stems = [steps_of(path, bits) for path in files.outputs.values()]
    assert {probe(path).subtype for path in files.outputs.values()} == {written}
    assert {len(stem) for stem in stems} == {length}
    assert np.array_equal(sum(stems), steps_of(source, bits).round())
    assert any(subtype in note and written in note for note in files.notes)
