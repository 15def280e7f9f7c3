"""Every sample of a file is read, or a line says what is not, whatever was done to it."""

import io
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile as sf
import torch
from av.audio.stream import AudioStream
from torch import Tensor

from frametx.audio import flac
from frametx.audio.io import AudioWriter, open_audio, probe, read_audio, read_blocks
from frametx.audio.mpeg import LENGTHS

RATE, LENGTH = 44_100, 90_000
CODEC_DELAY = 3_000  # samples that an encoder or a decoder may add or take
ID3V2 = b"ID3\x03\0\0\0\0\x02\0" + bytes(256)
ID3V1 = b"TAG" + b"x" * 125
APE = b"APETAGEX" + struct.pack("<4I", 2_000, 64, 1, 1 << 31) + bytes(8) + b"\xff\xfb\x90\x64" * 16
HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nicy-name: x\r\n\r\n"


@dataclass(frozen=True)
class Kind:
    """A format and how to encode it."""

    suffix: str
    encode: Callable[[Tensor, int], bytes]
    rate: int = RATE


def tones(length: int = LENGTH, *, channels: int = 2, rate: int = RATE, seed: int = 0) -> Tensor:
    """Noise below a fifth of the rate; each channel its own."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(channels, length // 4 + 2, generator=generator) * 0.1
    return torch.nn.functional.interpolate(
        noise[None], size=length, mode="linear", align_corners=True
    )[0]


def by_libsndfile(format: str, subtype: str) -> Callable[[Tensor, int], bytes]:
    def encode(samples: Tensor, rate: int) -> bytes:
        stored = io.BytesIO()
        with sf.SoundFile(stored, "w", rate, len(samples), subtype, format=format) as file:
            for part in samples.T.split(1 << 15):
                file.write(part.numpy())
        return stored.getvalue()

    return encode


def by_ffmpeg(
    format: str, codec: str, layout: str | None = None, **options: str
) -> Callable[[Tensor, int], bytes]:
    def encode(samples: Tensor, rate: int) -> bytes:
        shape = layout or {1: "mono", 2: "stereo", 6: "5.1"}[len(samples)]
        stored = io.BytesIO()
        with av.open(stored, "w", format=format, options=options) as container:
            stream = container.add_stream(codec, rate=rate, layout=shape, options=options)
            assert isinstance(stream, AudioStream)
            if codec in ("aac", "wmav2", "mp2", "ac3"):
                stream.bit_rate = 192_000
            container.start_encoding()
            packed = samples.T.reshape(1, -1).contiguous().numpy()
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=shape)
            frame.sample_rate, frame.pts = rate, 0
            size = stream.frame_size or 1_024
            resampler = av.AudioResampler(stream.format.name, shape, rate, frame_size=size)
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(stream.encode(piece))
            container.mux(stream.encode(None))
        return stored.getvalue()

    return encode


KINDS = {
    "wav": Kind("wav", by_libsndfile("WAV", "PCM_16")),
    "wav float": Kind("wav", by_libsndfile("WAVEX", "FLOAT")),
    "rf64": Kind("wav", by_libsndfile("RF64", "PCM_24")),
    "w64": Kind("w64", by_libsndfile("W64", "PCM_16")),
    "aiff": Kind("aiff", by_libsndfile("AIFF", "PCM_24")),
    "au": Kind("au", by_libsndfile("AU", "PCM_16")),
    "caf": Kind("caf", by_libsndfile("CAF", "PCM_16")),
    "alac in caf": Kind("caf", by_ffmpeg("caf", "alac")),
    "flac": Kind("flac", by_libsndfile("FLAC", "PCM_16")),
    "flac of ffmpeg": Kind("flac", by_ffmpeg("flac", "flac")),
    "flac in ogg": Kind("oga", by_ffmpeg("ogg", "flac")),
    "vorbis": Kind("ogg", by_libsndfile("OGG", "VORBIS")),
    "opus": Kind("opus", by_libsndfile("OGG", "OPUS"), 48_000),
    "mp3": Kind("mp3", by_libsndfile("MP3", "MPEG_LAYER_III")),
    "mp3 of lame": Kind("mp3", by_ffmpeg("mp3", "libmp3lame", b="128000")),
    "mp3 of varying rate": Kind("mp3", by_ffmpeg("mp3", "libmp3lame", global_quality="400")),
    "mp3 without a count": Kind("mp3", by_ffmpeg("mp3", "libmp3lame", write_xing="0")),
    "mp2": Kind("mp2", by_ffmpeg("mp2", "mp2")),
    "mp3 in riff": Kind("wav", by_ffmpeg("wav", "libmp3lame")),
    "m4a": Kind("m4a", by_ffmpeg("ipod", "aac")),
    "alac": Kind("m4a", by_ffmpeg("ipod", "alac")),
    "aac": Kind("aac", by_ffmpeg("adts", "aac")),
    "webm": Kind("weba", by_ffmpeg("webm", "libopus"), 48_000),
    "mka": Kind("mka", by_ffmpeg("matroska", "flac")),
    "wma": Kind("wma", by_ffmpeg("asf", "wmav2")),
    "avi": Kind("avi", by_ffmpeg("avi", "libmp3lame")),
    "ts": Kind("ts", by_ffmpeg("mpegts", "aac")),
    "ac3": Kind("ac3", by_ffmpeg("ac3", "ac3")),
    "wavpack": Kind("wv", by_ffmpeg("wv", "wavpack")),
    "tta": Kind("tta", by_ffmpeg("tta", "tta")),
}
LOSSLESS = ("wav", "rf64", "w64", "aiff", "au", "caf", "alac", "flac", "mka", "wavpack", "tta")
OPEN_ENDED = ("wma", "avi", "ts", "aac", "ac3", "mp3 in riff", "webm")  # pad more at their ends


@pytest.fixture(scope="module")
def encoded() -> Callable[..., bytes]:
    """The bytes of a kind; made once."""
    made: dict[tuple[Any, ...], bytes] = {}

    def encode(name: str, length: int = LENGTH, channels: int = 2, seed: int = 0) -> bytes:
        key = (name, length, channels, seed)
        if key not in made:
            kind = KINDS[name]
            made[key] = kind.encode(tones(length, channels=channels, seed=seed), kind.rate)
        return made[key]

    return encode


def put(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


def decoded(path: Path) -> tuple[int, list[str]]:
    """The number of samples, and all notes; a whole file, blocks and excerpts agree."""
    info, notes = probe(path), []
    blocks = list(read_blocks(path, block_samples=30_000, note=notes.append))
    whole = torch.cat(blocks, dim=1)
    start = whole.shape[1] // 2 + 7
    excerpt = read_audio(path, start=start, num_samples=2_000)
    assert torch.allclose(excerpt, whole[:, start : start + 2_000], atol=1e-4)
    assert notes or abs(info.num_samples - whole.shape[1]) <= 2 * CODEC_DELAY
    return whole.shape[1], [*info.notes, *notes]


def decoded_or_refused(path: Path) -> tuple[int, list[str], str]:
    """As `decoded`, or the line of the refusal."""
    try:
        return *decoded(path), ""
    except ValueError as error:
        refusal = str(error)
    assert refusal.startswith(f"{path}: ")
    assert "\n" not in refusal
    return 0, [], refusal


def is_near(length: int, wanted: int) -> bool:
    return wanted - CODEC_DELAY <= length <= wanted + 2 * CODEC_DELAY


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("suffix", ["own", "mp3", ""])
def test_content_decides_and_not_the_suffix(
    tmp_path: Path, encoded: Callable[..., bytes], name: str, suffix: str
) -> None:
    suffix = KINDS[name].suffix if suffix == "own" else suffix
    path = put(tmp_path / f"song.{suffix}".rstrip("."), encoded(name))
    length, notes = decoded(path)
    assert is_near(length, LENGTH)
    if name.startswith(LOSSLESS):
        assert length == LENGTH
    assert notes == []


JOINS = {
    "nothing": b"",
    "id3v2": ID3V2,
    "id3v1": ID3V1,
    "ape": APE,
    "both": ID3V1 + ID3V2,
}


@pytest.mark.parametrize("name", KINDS)
def test_joined_files_are_read_to_the_end(
    tmp_path: Path, encoded: Callable[..., bytes], name: str
) -> None:
    first, second = encoded(name), encoded(name, 60_000, seed=1)
    length, notes = decoded(put(tmp_path / f"x.{KINDS[name].suffix}", first, second))
    assert is_near(length, LENGTH + 60_000), notes


@pytest.mark.parametrize("between", JOINS)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("mp3", "mp3 of lame"),
        ("mp3 of lame", "mp3 without a count"),
        ("mp3 without a count", "mp3 of varying rate"),
        ("mp3 of varying rate", "mp3 without a count"),
    ],
)
def test_mp3s_of_different_encoders_are_joined_over_any_tags(
    tmp_path: Path, encoded: Callable[..., bytes], first: str, second: str, between: str
) -> None:
    parts = encoded(first), JOINS[between], encoded(second, 60_000, seed=1)
    length, _ = decoded(put(tmp_path / "x.mp3", *parts))
    assert is_near(length, LENGTH + 60_000)


@pytest.mark.parametrize("name", ["mp3 of lame", "vorbis", "opus", "flac", "wav", "m4a", "aac"])
@pytest.mark.parametrize("change", ["rate", "channels"])
def test_a_second_part_of_another_rate_or_number_of_channels_is_read_and_noted(
    tmp_path: Path, encoded: Callable[..., bytes], name: str, change: str
) -> None:
    rate = KINDS[name].rate
    other_rate = {44_100: 48_000, 48_000: 24_000}[rate] if change == "rate" else rate
    channels = 1 if change == "channels" else 2
    second = KINDS[name].encode(tones(60_000, channels=channels, rate=other_rate), other_rate)
    path = put(tmp_path / "x", encoded(name), second)
    length, notes = decoded(path)
    assert is_near(length, LENGTH + 60_000 * rate // other_rate)
    assert any("goes on in" in note for note in notes), notes
    with open_audio(path) as reader:
        reader.seek(LENGTH + 20_000)
        assert np.abs(reader.read(4_000)).mean() > 0.01  # sound, and no silence


JUNK = {"zeros": bytes(70_000), "a download's header": HTTP, "id3v2": ID3V2 * 2, "odd": b"\0\1\2"}
FOUND_BEHIND_JUNK = (
    *("wav", "wav float", "rf64", "aiff", "flac", "flac in ogg", "vorbis", "opus", "mp3"),
    *("mp3 of lame", "mp3 without a count", "mp2", "mp3 in riff", "m4a"),
)


@pytest.mark.parametrize("name", FOUND_BEHIND_JUNK)
@pytest.mark.parametrize("junk", JUNK)
def test_junk_in_front_costs_nothing(
    tmp_path: Path, encoded: Callable[..., bytes], name: str, junk: str
) -> None:
    path = put(tmp_path / f"x.{KINDS[name].suffix}", JUNK[junk], encoded(name))
    assert is_near(decoded(path)[0], LENGTH)


@pytest.mark.parametrize("name", [*FOUND_BEHIND_JUNK, "caf", "aac", "mka"])
@pytest.mark.parametrize("junk", [ID3V1, APE, bytes(5_000), np.random.default_rng(0).bytes(2_000)])
def test_junk_behind_costs_nothing(
    tmp_path: Path, encoded: Callable[..., bytes], name: str, junk: bytes
) -> None:
    length, _ = decoded(put(tmp_path / f"x.{KINDS[name].suffix}", encoded(name), junk))
    assert is_near(length, LENGTH)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.97, 0.6])
def test_a_file_cut_short_is_refused_or_says_so(
    tmp_path: Path, encoded: Callable[..., bytes], name: str, share: float
) -> None:
    content = encoded(name, 4 * LENGTH)
    path = put(tmp_path / f"x.{KINDS[name].suffix}", content[: int(len(content) * share)])
    # These state no length anywhere: a cut between two frames cannot be seen.
    is_silent = name in ("ac3", "ts", "mp2", "mp3 without a count", "au", "flac in ogg")
    length, notes, refusal = decoded_or_refused(path)
    if refusal:
        return
    assert is_silent or is_near(length, 4 * LENGTH) or notes
    assert length > 0.5 * 4 * LENGTH


def patched(content: bytes, mark: bytes, offset: int, value: bytes) -> bytes:
    at = content.index(mark) + offset
    return content[:at] + value + content[at + len(value) :]


def lied(name: str, content: bytes, factor: float) -> bytes:
    """The file with a header that counts so many times its samples."""
    if name.startswith("mp3"):
        mark = b"Xing" if b"Xing" in content[:2_000] else b"Info"
        at = content.index(mark) + 8
        count = int.from_bytes(content[at : at + 4], "big")
        return patched(content, mark, 8, int(count * factor).to_bytes(4, "big"))
    stated = int.from_bytes(content[21:26], "big")
    total = int((stated & ((1 << 36) - 1)) * factor)
    return content[:21] + ((stated >> 36 << 36) | total).to_bytes(5, "big") + content[26:]


@pytest.mark.parametrize("name", ["mp3 of lame", "mp3 of varying rate", "flac", "flac of ffmpeg"])
@pytest.mark.parametrize("factor", [0.0, 0.5, 0.98, 1.5, 100.0])
def test_a_header_that_lies_about_the_length_is_not_believed(
    tmp_path: Path, encoded: Callable[..., bytes], name: str, factor: float
) -> None:
    path = put(tmp_path / "x", lied(name, encoded(name), factor))
    length, _, refusal = decoded_or_refused(path)
    if name.startswith("flac") and factor > 1:
        assert "cut short" in refusal
        assert "ffmpeg -i" in refusal
    else:
        assert is_near(length, LENGTH)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize("name", ["wav", "wav float", "mp3 in riff"])
def test_a_wav_that_does_not_know_its_length_is_read_to_its_end(
    tmp_path: Path, encoded: Callable[..., bytes], name: str, size: int
) -> None:
    content = encoded(name)
    content = patched(content, b"RIFF", 4, size.to_bytes(4, "little"))
    content = patched(content, b"data", 4, size.to_bytes(4, "little"))
    length, notes = decoded(put(tmp_path / "x.wav", content))
    assert is_near(length, LENGTH)
    assert bool(notes) == (size == 0 and name != "mp3 in riff")


def test_an_aiff_and_an_rf64_of_a_stopped_recorder_are_read_to_their_end(
    tmp_path: Path, encoded: Callable[..., bytes]
) -> None:
    aiff = patched(encoded("aiff"), b"SSND", 4, bytes(4))
    aiff = patched(aiff, b"COMM", 10, bytes(4))
    rf64 = patched(encoded("rf64"), b"ds64", 8, bytes(24))
    for content in (aiff, rf64):
        length, notes = decoded(put(tmp_path / "x", content))
        assert length == LENGTH
        assert "does not count its samples" in notes[0]


@pytest.mark.parametrize("lacking", [1, 3])
def test_a_wav_that_lacks_less_than_a_sample_is_read_and_says_so(
    tmp_path: Path, encoded: Callable[..., bytes], lacking: int
) -> None:
    length, notes = decoded(put(tmp_path / "x.wav", encoded("wav")[:-lacking]))
    assert length == LENGTH - 1
    assert notes == ["its last sample is cut and left out"]


def test_a_wav_that_lacks_more_is_refused_with_the_way_out(
    tmp_path: Path, encoded: Callable[..., bytes]
) -> None:
    path = put(tmp_path / "x.wav", encoded("wav")[:-4_000])
    with pytest.raises(ValueError, match=r"cut short, 4000 bytes .* missing: .*ffmpeg -i"):
        probe(path)


def test_an_odd_size_and_a_missing_byte_behind_it_cost_nothing(tmp_path: Path) -> None:
    stored = by_libsndfile("WAV", "PCM_U8")(tones(LENGTH + 1, channels=1), RATE)
    listed = b"LIST" + struct.pack("<I", 4) + b"INFO"
    for behind in (b"", b"\0", listed, b"\0" + listed):
        length, notes = decoded(put(tmp_path / "x.wav", stored[: 44 + LENGTH + 1], behind))
        assert (length, notes) == (LENGTH + 1, [])


def test_an_empty_wav_with_chunks_behind_is_empty(tmp_path: Path) -> None:
    empty = by_libsndfile("WAV", "PCM_16")(torch.zeros(2, 0), RATE)
    listed = (
        b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf58.76.100\0"
    )
    with pytest.raises(ValueError, match="holds no samples"):
        probe(put(tmp_path / "x.wav", empty, listed))


@pytest.mark.parametrize("name", ["flac", "flac of ffmpeg"])
def test_a_flac_from_a_pipe_is_read_to_its_end(
    tmp_path: Path, encoded: Callable[..., bytes], name: str
) -> None:
    path = put(tmp_path / "x.flac", lied(name, encoded(name), 0.0))
    assert decoded(path) == (LENGTH, [])
    assert probe(path).format == "FLAC"
    assert probe(path).subtype == "PCM_16" if name == "flac" else "PCM_24"


def test_lossless_parts_join_to_the_very_samples(
    tmp_path: Path, encoded: Callable[..., bytes]
) -> None:
    for name in ("flac", "wav", "aiff", "caf", "mka"):
        parts = [encoded(name), encoded(name, 60_000, seed=1), encoded(name, 30_000, seed=2)]
        paths = [put(tmp_path / f"{number}", part) for number, part in enumerate(parts)]
        joined = read_audio(put(tmp_path / "joined", *parts))
        assert torch.equal(joined, torch.cat([read_audio(path) for path in paths], dim=1))


@pytest.mark.parametrize("name", KINDS)
def test_a_reader_seeks_to_the_samples_that_it_reads_through(
    tmp_path: Path, encoded: Callable[..., bytes], name: str
) -> None:
    path = put(tmp_path / f"x.{KINDS[name].suffix}", encoded(name), encoded(name, 60_000, seed=1))
    whole = torch.cat(list(read_blocks(path, block_samples=10_000)), dim=1)
    with open_audio(path, num_samples=whole.shape[1]) as reader:
        for start in (0, 100_000, 89_000, 5, 140_000, 139_999):
            reader.seek(start)
            got = torch.from_numpy(reader.read(3_000)).T
            assert torch.allclose(got, whole[:, start : start + 3_000], atol=1e-4)


SURROUND = (500, 700, 300, 60, 1_100, 1_300, 1_700, 1_900)  # Hz of FL FR FC LFE BL BR SL SR
SEVEN = (500, 700, 300, 60, 1_500, 1_700, 1_900)  # FL FR FC LFE BC SL SR
LAYOUTS = {
    1: "mono",
    2: "stereo",
    3: "3.0",
    4: "quad",
    5: "5.0",
    6: "5.1",
    7: "6.1",
    8: "7.1",
}
TONES_OF = {
    **{1: (500,), 2: SURROUND[:2], 3: SURROUND[:3], 4: (500, 700, 1_100, 1_300)},
    **{5: (500, 700, 300, 1_100, 1_300), 6: SURROUND[:6], 7: SEVEN, 8: SURROUND},
}


def one_tone_each(frequencies: tuple[int, ...], rate: int) -> Tensor:
    time_s = torch.arange(LENGTH) / rate
    return torch.stack([0.2 * torch.sin(2 * torch.pi * hz * time_s) for hz in frequencies])


def frequencies_in(samples: Tensor, rate: int) -> tuple[int, ...]:
    spectrum = torch.fft.rfft(samples[:, 10_000 : 10_000 + rate]).abs()
    return tuple(int(10 * round(int(row.argmax()) / 10)) for row in spectrum)


@pytest.mark.parametrize(
    ("format", "codec", "rate", "channels"),
    [
        (*encoder, channels)
        for encoder in (
            ("ogg", "libopus", 48_000),
            ("matroska", "flac", 44_100),
            ("wav", "pcm_s16le", 44_100),
            ("flac", "flac", 44_100),
            ("ipod", "aac", 44_100),
        )
        for channels in LAYOUTS
        if encoder[1] != "aac" or channels not in (4, 7)  # AAC has other layouts of those
    ],
)
def test_each_channel_of_another_encoder_is_where_wave_has_it(
    tmp_path: Path, format: str, codec: str, rate: int, channels: int
) -> None:
    frequencies = TONES_OF[channels]
    encode = by_ffmpeg(format, codec, LAYOUTS[channels])
    path = put(tmp_path / "x", encode(one_tone_each(frequencies, rate), rate))
    if codec == "libopus" and channels in (5, 7):  # this encoder itself takes them for others
        frequencies = frequencies_in(by_another_decoder(path), rate)
    assert frequencies_in(read_audio(path), rate) == frequencies


def by_another_decoder(path: Path) -> Tensor:
    """What FFmpeg decodes, in its own order, which is WAVE's."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    layout, rate = frames[0].layout, frames[0].sample_rate
    resampler = av.AudioResampler("flt", layout.name, rate)
    pieces = [piece for frame in [*frames, None] for piece in resampler.resample(frame)]
    packed = np.concatenate([piece.to_ndarray()[0] for piece in pieces])
    return torch.from_numpy(packed.reshape(-1, layout.nb_channels).T.copy())


@pytest.mark.parametrize("channels", LAYOUTS)
@pytest.mark.parametrize(
    ("format", "subtype", "rate"),
    [
        ("OGG", "VORBIS", 44_100),
        ("OGG", "OPUS", 48_000),
        ("FLAC", "PCM_16", 44_100),
        ("WAV", "PCM_16", 44_100),
    ],
)
def test_each_channel_that_is_written_is_where_other_decoders_look_for_it(
    tmp_path: Path, format: str, subtype: str, rate: int, channels: int
) -> None:
    frequencies = TONES_OF[channels]
    path = tmp_path / "x"
    with AudioWriter(
        path, sample_rate=rate, num_channels=channels, format=format, subtype=subtype
    ) as writer:
        writer.write(one_tone_each(frequencies, rate))
    assert frequencies_in(read_audio(path), rate) == frequencies
    assert frequencies_in(by_another_decoder(path), rate) == frequencies


def test_channels_without_a_meaning_keep_their_places(tmp_path: Path) -> None:
    """Opus of mapping family 255: six channels that are no loudspeakers."""
    encode = by_ffmpeg("ogg", "libopus", "5.1", mapping_family="255")
    path = put(tmp_path / "x.opus", encode(one_tone_each(TONES_OF[6], 48_000), 48_000))
    with sf.SoundFile(path) as file:
        stored = torch.from_numpy(file.read(dtype="float32").T.copy())
    assert frequencies_in(read_audio(path), 48_000) == frequencies_in(stored, 48_000)


def test_a_playlist_does_not_make_the_decoder_open_other_files(
    tmp_path: Path, encoded: Callable[..., bytes]
) -> None:
    put(tmp_path / "secret.wav", encoded("wav"))
    lists = {
        "x.mp3": f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n",
        "y.m4a": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{tmp_path}/secret.wav\n",
    }
    for name, text in lists.items():
        with pytest.raises(ValueError, match="is not audio that can be read"):
            probe(put(tmp_path / name, text.encode()))


def damaged_frames(content: bytes) -> bytes:
    """An MP3 whose frames are in their places, but spoilt inside."""
    spoilt, at = bytearray(content), content.index(b"Info" if b"Info" in content else b"Xing") - 36
    while at + 200 < len(spoilt):
        at += LENGTHS[spoilt[at + 1] << 8 | spoilt[at + 2]]
        if at > 20_000:
            spoilt[at + 4 : at + 90] = np.random.default_rng(at).bytes(86)
    return bytes(spoilt)


def test_what_a_decoder_complains_of_is_a_note_and_not_on_the_terminal(
    tmp_path: Path, encoded: Callable[..., bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    spoilt = damaged_frames(encoded("mp3", 8 * LENGTH))
    _, notes = decoded(put(tmp_path / "x.mp3", spoilt))
    assert notes
    assert capfd.readouterr().err == ""


def test_a_frame_that_is_cut_at_once_ends_the_search(tmp_path: Path) -> None:
    """The header of a frame at the very end, without the frame."""
    path = put(tmp_path / "x", bytes(np.random.default_rng(0).integers(1, 200, 9_000, np.uint8)))
    put(path, path.read_bytes(), b"\xff\xfb\x90\x64" + bytes(60))
    with pytest.raises(ValueError, match="is not audio that can be read"):
        probe(path)


@pytest.mark.parametrize("number", [0, 7, 5_000])
def test_sound_that_looks_like_the_header_of_a_frame_is_no_frame(
    tmp_path: Path, number: int
) -> None:
    """Noise is stored as it is, sample by sample, so any bytes can be put into a file."""
    head = bytes([0xFF, 0xF8, 0xC9, 0x08]) + chr(number).encode()  # 4,096 samples of 16 bit
    head += bytes([flac._crc8(head)])
    head += bytes(len(head) % 2)
    noise = np.random.default_rng(0).integers(-(2**15), 2**15, 3 * 4096 + 100, dtype=np.int16)
    noise[-4000 : -4000 + len(head) // 2] = np.frombuffer(head, ">i2")
    path = tmp_path / "noise.flac"
    sf.write(path, noise, 44_100, subtype="PCM_16")
    content = path.read_bytes()
    assert head in content[-flac.TAIL_BYTES :]

    def streams(path: Path) -> list[flac.Flac]:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return flac.walk(data, 0)

    (found,) = streams(path)
    assert found.stated == found.counted == len(noise)
    path.write_bytes(lied("flac", content, 0.0))
    (found,) = streams(path)
    assert (found.stated, found.counted) == (0, len(noise))
    assert read_audio(path).shape[1] == len(noise)
