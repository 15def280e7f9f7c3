import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor

from frametx.audio.io import INTEGER_BITS, AudioWriter, is_writable, probe, read_audio, read_blocks

NOISE = torch.randn(2, 10_000, generator=torch.Generator().manual_seed(0)) * 0.1


def write(path: Path, samples: Tensor, subtype: str = "PCM_16", format: str = "WAV") -> Path:
    header: dict[str, Any] = {"sample_rate": 44_100, "num_channels": samples.shape[0]}
    with AudioWriter(path, format=format, subtype=subtype, **header) as writer:
        writer.write(samples)
    return path


def test_probe_tells_what_was_written(tmp_path: Path) -> None:
    info = probe(write(tmp_path / "song.flac", NOISE, "PCM_24", "FLAC"))
    assert (info.num_samples, info.sample_rate, info.num_channels) == (10_000, 44_100, 2)
    assert (info.format, info.subtype) == ("FLAC", "PCM_24")
    assert not info.is_length_estimated


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24"])
def test_every_step_of_an_integer_format_survives_reading_and_writing(
    tmp_path: Path, subtype: str
) -> None:
    scale = 2 ** (INTEGER_BITS[subtype] - 1)
    steps = torch.linspace(-scale, scale - 1, 60_001, dtype=torch.float64).round()
    first = write(tmp_path / "first.wav", (steps / scale).float()[None], subtype)
    samples = read_audio(first)
    assert torch.equal(samples[0].double() * scale, steps)
    second = write(tmp_path / "second.wav", samples, subtype)
    assert first.read_bytes() == second.read_bytes()


def test_floats_survive_beyond_full_scale(tmp_path: Path) -> None:
    assert torch.equal(read_audio(write(tmp_path / "x.wav", NOISE * 30, "FLOAT")), NOISE * 30)


@pytest.mark.parametrize(("subtype", "expected"), [("PCM_16", 3), ("ULAW", 3), ("FLOAT", 0)])
def test_what_is_clipped_is_counted(tmp_path: Path, subtype: str, expected: int) -> None:
    loud = torch.tensor([[0.5, 1.5, -2.0, 1.0001, -1.0, 0.0]])
    header = {"sample_rate": 8_000, "num_channels": 1, "format": "WAV", "subtype": subtype}
    with AudioWriter(tmp_path / "x.wav", **header) as writer:
        writer.write(loud)
    assert writer.num_clipped == expected
    if expected:
        assert read_audio(tmp_path / "x.wav").abs().max() <= 1


@pytest.mark.parametrize("extension", ["flac", "ogg", "mp3", "aiff"])
def test_a_format_keeps_the_exact_length(tmp_path: Path, extension: str) -> None:
    format = extension.upper()
    subtype = sf.default_subtype(format) or ""
    for length in (1, 999, 10_000):
        path = write(tmp_path / f"{length}.{extension}", NOISE[:, :length], subtype, format)
        blocks = list(read_blocks(path, block_samples=512))
        assert probe(path).num_samples == length
        assert sum(block.shape[1] for block in blocks) == length


def test_minutes_of_vorbis_in_one_block_are_written(tmp_path: Path) -> None:
    path = write(tmp_path / "x.ogg", torch.zeros(1, 44_100 * 120), "VORBIS", "OGG")
    assert probe(path).num_samples == 44_100 * 120


@pytest.mark.parametrize("block_samples", [1, 999, 10_000, 20_000])
def test_blocks_join_to_the_whole(tmp_path: Path, block_samples: int) -> None:
    path = write(tmp_path / "x.wav", NOISE[:, :2_000], "FLOAT")
    joined = torch.cat(list(read_blocks(path, block_samples=block_samples)), dim=1)
    assert torch.equal(joined, read_audio(path))


def test_a_part_is_that_part_of_the_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "x.flac", NOISE, "PCM_16", "FLAC")
    assert torch.equal(
        read_audio(path, start=1234, num_samples=777), read_audio(path)[:, 1234 : 1234 + 777]
    )
    with pytest.raises(ValueError, match="ends at sample 10000, 10100 wanted"):
        read_audio(path, start=9_900, num_samples=200)
    with pytest.raises(ValueError, match=r"start \(10001\) is outside its 10000 samples"):
        read_audio(path, start=10_001)


def test_a_failed_write_leaves_nothing_and_an_older_file_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "x.wav", NOISE)
    before = path.read_bytes()
    header = {"sample_rate": 8_000, "num_channels": 2, "format": "WAV", "subtype": "PCM_16"}
    writer = AudioWriter(path, **header)

    def write_and_be_stopped() -> None:
        with writer:
            writer.write(NOISE)
            assert path.read_bytes() == before
            assert len(list(tmp_path.iterdir())) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_be_stopped()
    assert [file.name for file in tmp_path.iterdir()] == ["x.wav"]
    assert path.read_bytes() == before


def test_a_format_that_cannot_hold_the_samples_is_refused(tmp_path: Path) -> None:
    format, subtype = "MP3", "MPEG_LAYER_III"
    assert is_writable(sample_rate=48_000, num_channels=2, format=format, subtype=subtype)
    assert not is_writable(sample_rate=96_000, num_channels=2, format=format, subtype=subtype)
    path = tmp_path / "x.mp3"
    writer = AudioWriter(path, sample_rate=96_000, num_channels=2, format=format, subtype=subtype)
    with pytest.raises(ValueError, match=r"x\.mp3: cannot be written"), writer:
        pass
    assert not list(tmp_path.iterdir())


def test_the_temporary_name_is_short_hidden_and_of_one_writer_only(tmp_path: Path) -> None:
    header = {"sample_rate": 8_000, "num_channels": 1, "format": "WAV", "subtype": "PCM_16"}
    writers = [AudioWriter(tmp_path / f"{'x' * 250}.wav", **header) for _ in range(50)]
    names = {writer.part.name for writer in writers}
    assert len(names) == 50
    assert all(name.startswith(".") and len(name) < 32 for name in names)
    with writers[0] as writer:
        writer.write(NOISE[:1])
    assert [path.name for path in tmp_path.iterdir()] == [f"{'x' * 250}.wav"]


def test_closed_but_not_placed_a_file_is_whole_and_can_be_taken_back(tmp_path: Path) -> None:
    header = {"sample_rate": 8_000, "num_channels": 2, "format": "FLAC", "subtype": "PCM_16"}
    writer = AudioWriter(tmp_path / "x.flac", **header).__enter__()
    writer.write(NOISE)
    writer.close()
    assert writer.num_samples == probe(writer.part).num_samples == 10_000
    assert not writer.path.exists()
    writer.discard()
    writer.discard()
    assert not list(tmp_path.iterdir())


def damaged(tmp_path: Path, kind: str) -> Path:
    whole = write(tmp_path / "whole.wav", NOISE).read_bytes()
    flac = write(tmp_path / "whole.flac", NOISE, "PCM_16", "FLAC").read_bytes()
    mp3 = write(tmp_path / "whole.mp3", NOISE.repeat(1, 20), "MPEG_LAYER_III", "MP3").read_bytes()
    aiff = write(tmp_path / "whole.aiff", NOISE, "PCM_16", "AIFF").read_bytes()
    contents = {
        "nothing": b"",
        "text": b"la la la\n" * 50,
        "header": whole[:20],
        "cut wav": whole[: len(whole) // 2],
        "cut flac": flac[: len(flac) // 2],
        "cut mp3": mp3[: len(mp3) // 2],
        "cut aiff": aiff[: len(aiff) // 2],
        "no channels": whole[:22] + struct.pack("<H", 0) + whole[24:],
    }
    path = tmp_path / "bad.wav"
    path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("nothing", "is empty"),
        ("text", "is not audio"),
        ("header", "is not audio"),
        ("cut wav", "cut short"),
        ("cut flac", "cannot be decoded|cut short"),
        ("cut mp3", "cut short"),
        ("cut aiff", "cut short"),
        ("no channels", "is not audio.*[Cc]hannel"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, kind: str, reason: str) -> None:
    path = damaged(tmp_path, kind)
    with pytest.raises(ValueError, match=rf"bad\.wav: .*({reason})") as caught:
        for _ in read_blocks(probe(path).path, block_samples=4096):
            pass
    assert "\n" not in str(caught.value)


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    sf.write(tmp_path / "x.wav", np.zeros((0, 2)), 44_100)
    with pytest.raises(ValueError, match="holds no samples"):
        probe(tmp_path / "x.wav")


def test_a_wav_from_a_pipe_that_does_not_know_its_length_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.wav", NOISE)
    contents = path.read_bytes()
    at = contents.index(b"data") + 4
    path.write_bytes(contents[:at] + b"\xff\xff\xff\xff" + contents[at + 4 :])
    assert probe(path).num_samples == 10_000


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.wav"):
        probe("nowhere.wav")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_bad_sample_is_named(tmp_path: Path, value: float) -> None:
    samples = NOISE.clone()
    samples[1, 7_000] = value
    samples[0, 8_000] = value
    path = write(tmp_path / "x.wav", samples, "FLOAT")
    for read in (lambda: read_audio(path), lambda: list(read_blocks(path, block_samples=999))):
        with pytest.raises(ValueError, match=rf"x\.wav: sample 7000 .* of channel 1 is {value}"):
            read()
