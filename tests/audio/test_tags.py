import io
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from mutagen.asf import ASF
from mutagen.asf._attrs import ASFByteArrayAttribute
from PIL import Image

from frametx.audio.io import AudioWriter, read_audio
from frametx.audio.tags import NAMES, Picture, Tags, read_tags, tags_for_stem, write_tags

RATE = 48_000
NOISE = torch.randn(2, 4_000, generator=torch.Generator().manual_seed(0)) * 0.1
WRITABLE = {
    "wav": ("WAV", "PCM_24"),
    "float.wav": ("WAV", "FLOAT"),
    "aiff": ("AIFF", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
FORMATS = (*WRITABLE, "m4a")
TEXT = {
    "title": "Grün ist die Heide 緑",
    "artist": "Someone; Someone Else",
    "album": "Live / Tot",
    "albumartist": "Various",
    "date": "1932-05-01",
    "tracknumber": "3/12",
    "discnumber": "1/2",
    "genre": "Schlager",
    "composer": "Löns",
    "comment": "two\nlines",
    "lyricist": "Hermann",
    "conductor": "Nobody",
    "organization": "Label",
    "copyright": "1932 Label",
    "isrc": "DEA123200001",
    "bpm": "96",
    "lyrics": "Grün\nist\ndie Heide",
}


def picture(mime: str, size: int = 32) -> bytes:
    pixels = np.random.default_rng(size).integers(0, 255, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG" if mime == "image/png" else "JPEG")
    return file.getvalue()


def encode_with_pyav(path: Path, codec: str) -> Path:
    import av
    from av.audio.stream import AudioStream

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, layout="stereo")
        assert isinstance(stream, AudioStream)
        stream.bit_rate = 128_000
        frame = av.AudioFrame.from_ndarray(NOISE.numpy(), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = RATE, 0
        container.start_encoding()
        resampler = av.AudioResampler("fltp", "stereo", RATE, frame_size=stream.frame_size)
        for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(piece))
    return path


def song(path: Path, format: str) -> Path:
    if format == "m4a":
        return encode_with_pyav(path, "aac")
    container, subtype = WRITABLE[format]
    header = {"sample_rate": RATE, "num_channels": 2, "format": container, "subtype": subtype}
    with AudioWriter(path, **header) as writer:
        writer.write(NOISE)
    return path


def full(mime: str = "image/jpeg") -> Tags:
    return Tags(dict(TEXT), (Picture(picture(mime), mime),))


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_tags_and_cover_move_between_every_two_formats(
    tmp_path: Path, source: str, target: str
) -> None:
    first = song(tmp_path / f"first.{source}", source)
    second = song(tmp_path / f"second.{target}", target)
    mime = "image/png" if source == "flac" else "image/jpeg"
    write_tags(first, full(mime))
    write_tags(second, read_tags(first))
    moved = read_tags(second)
    assert moved.text == TEXT
    assert moved.cover == Picture(picture(mime), mime)
    assert moved.notes == ()
    assert set(TEXT) == NAMES


@pytest.mark.parametrize("format", FORMATS)
def test_the_samples_and_the_length_stay_what_they_were(tmp_path: Path, format: str) -> None:
    path = song(tmp_path / f"x.{format}", format)
    before = read_audio(path)
    large = Picture(picture("image/png", 400), "image/png")
    for tags in (full(), Tags({"title": "x"}, (large,)), Tags()):
        write_tags(path, tags)
        assert torch.equal(read_audio(path), before)
        assert read_tags(path) == tags


def test_a_temporary_name_is_no_obstacle(tmp_path: Path) -> None:
    for format in FORMATS:
        path = song(tmp_path / f"x.{format}", format).rename(tmp_path / ".1f-2a.part")
        write_tags(path, full())
        assert read_tags(path).text == TEXT


def test_what_was_there_before_is_replaced(tmp_path: Path) -> None:
    for format in FORMATS:
        path = song(tmp_path / f"x.{format}", format)
        write_tags(path, full())
        write_tags(path, Tags({"artist": "Other"}))
        assert read_tags(path) == Tags({"artist": "Other"})


def test_many_pictures_keep_their_kinds(tmp_path: Path) -> None:
    pictures = tuple(
        Picture(picture("image/png", 8 + n), "image/png", kind) for n, kind in enumerate((4, 3, 8))
    )
    for format in ("wav", "flac", "ogg", "mp3"):
        path = song(tmp_path / f"x.{format}", format)
        write_tags(path, Tags({"title": "x"}, pictures))
        read = read_tags(path)
        assert {(p.kind, p.data) for p in read.pictures} == {(p.kind, p.data) for p in pictures}
        assert read.cover is not None
        assert read.cover.kind == 3


def test_the_loudness_of_the_song_is_not_claimed_for_its_stems(tmp_path: Path) -> None:
    from mutagen.flac import FLAC

    path = song(tmp_path / "x.flac", "flac")
    file = FLAC(path)
    file["title"], file["replaygain_track_gain"], file["acoustid_id"] = "x", "-9 dB", "1"
    file["totaltracks"], file["tracknumber"] = "9", "02"
    file.save()
    assert read_tags(path).text == {"title": "x", "tracknumber": "02/9"}


@pytest.mark.parametrize("format", ["WAV", "AIFF", "RF64", "CAF"])
def test_the_strings_of_libsndfile_are_read(tmp_path: Path, format: str) -> None:
    path = tmp_path / "x"
    with sf.SoundFile(path, "w", 44_100, 1, format=format, subtype="PCM_16") as file:
        file.title, file.artist, file.software = "Lüül", "Someone", "a program"
        file.write(np.zeros(100))
    assert read_tags(path).text == {"title": "Lüül", "artist": "Someone"}


def test_wma_is_read_with_its_cover(tmp_path: Path) -> None:
    path = encode_with_pyav(tmp_path / "x.wma", "wmav2")
    data = picture("image/png")
    words = "image/png".encode("utf-16-le") + b"\0\0" + "front".encode("utf-16-le") + b"\0\0"
    file = ASF(path)
    file["Title"], file["Author"], file["WM/TrackNumber"] = ["Lüül"], ["A", "B"], ["4"]
    packed = b"\x03" + len(data).to_bytes(4, "little") + words + data
    file["WM/Picture"] = [ASFByteArrayAttribute(packed)]
    file.save()
    tags = read_tags(path)
    assert tags.text == {"title": "Lüül", "artist": "A; B", "tracknumber": "4"}
    assert tags.cover == Picture(data, "image/png", 3, "front")


def test_the_tags_of_a_video_are_read(tmp_path: Path) -> None:
    import av

    for suffix in ("mkv", "mp4"):
        path = tmp_path / f"x.{suffix}"
        with av.open(str(path), "w") as container:
            container.metadata["title"], container.metadata["artist"] = "Lüül", "Someone"
            stream = container.add_stream("pcm_s16le" if suffix == "mkv" else "aac", rate=RATE)
            assert stream.type == "audio"
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1_024), np.int16), format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts = RATE, 0
            frames = av.AudioResampler(
                "s16" if suffix == "mkv" else "fltp", "stereo", RATE
            ).resample(frame)
            for packet in [*(p for f in frames for p in stream.encode(f)), *stream.encode(None)]:
                container.mux(packet)
        text = read_tags(path).text
        assert (text["title"], text["artist"]) == ("Lüül", "Someone")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("seed", range(3))
def test_broken_tags_cost_a_note_and_no_error(tmp_path: Path, format: str, seed: int) -> None:
    path = song(tmp_path / f"x.{format}", format)
    write_tags(path, full())
    contents = bytearray(path.read_bytes())
    places = np.random.default_rng(seed).integers(4, len(contents), 400)
    for place in places:
        contents[place] = (contents[place] * 7 + 13) % 256
    path.write_bytes(contents[: len(contents) * (seed + 1) // 3])
    tags = read_tags(path)
    assert isinstance(tags, Tags)
    assert all("\n" not in note and str(path) in note for note in tags.notes)


def test_tags_that_cannot_be_parsed_leave_a_note(tmp_path: Path) -> None:
    path = tmp_path / "x.flac"
    path.write_bytes(b"fLaC" + b"\x84\xff\xff\xff" + b"junk" * 20)
    tags = read_tags(path)
    assert (tags.text, tags.pictures) == ({}, ())
    assert tags.notes[0].startswith(f"{path}: its tags cannot be read: ")
    assert "nowhere" in read_tags(tmp_path / "nowhere.mp3").notes[0]


def test_a_format_without_tags_is_refused(tmp_path: Path) -> None:
    sf.write(tmp_path / "x.au", np.zeros(100), 8_000)
    with pytest.raises(ValueError, match=r"x\.au: its format takes no tags: use wav"):
        write_tags(tmp_path / "x.au", Tags({"title": "x"}))


@pytest.mark.parametrize(
    ("stem", "title"),
    [
        ("vocals", "Loreley (Vocals)"),
        ("instrumental", "Loreley (Instrumental)"),
        ("lead_vocals", "Loreley (Lead Vocals)"),
    ],
)
def test_the_title_names_the_stem(stem: str, title: str) -> None:
    tags = Tags({"title": "Loreley", "artist": "Someone"})
    assert tags_for_stem(tags, stem).text == {"title": title, "artist": "Someone"}


def test_without_a_title_none_is_made_up() -> None:
    assert tags_for_stem(Tags({"artist": "x"}), "vocals").text == {"artist": "x"}
    assert tags_for_stem(Tags(), "vocals", song="01 a").text == {"title": "01 a (Vocals)"}
    assert tags_for_stem(Tags({"title": "b"}), "vocals", song="01 a").text["title"] == "b (Vocals)"
