"""Files with anything in them: each is separated or refused in one line, and the others go on."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest
import soundfile as sf
from av.audio.stream import AudioStream
from hypothesis import given, settings
from hypothesis import strategies as st

from frametx.audio.tags import Picture, Tags, write_tags

PROFILE = settings.get_profile("bad_input")
RATE = 44_100
NOISE = np.random.default_rng(0).standard_normal((RATE, 2)) * 0.1
TAGS = Tags(
    text={"title": "Lüül", "artist": "Someone", "tracknumber": "3/12", "lyrics": "la\nla"},
    pictures=(Picture(data=b"\x89PNG\r\n\x1a\n" + bytes(300), mime="image/png"),),
)
CODED = {
    "a.wav": ("WAV", "PCM_16"),
    "b.wav": ("WAV", "FLOAT"),
    "c.wav": ("WAV", "IMA_ADPCM"),
    "d.flac": ("FLAC", "PCM_24"),
    "e.ogg": ("OGG", "VORBIS"),
    "f.opus": ("OGG", "OPUS"),
    "g.mp3": ("MP3", "MPEG_LAYER_III"),
    "h.aiff": ("AIFF", "PCM_16"),
    "i.caf": ("CAF", "PCM_16"),
    "j.w64": ("W64", "PCM_16"),
    "k.au": ("AU", "PCM_16"),
}
CONTAINERS = {
    "l.m4a": ("ipod", "aac"),
    "m.mka": ("matroska", "flac"),
    "n.wma": ("asf", "wmav2"),
    "o.webm": ("webm", "libopus"),
    "p.avi": ("avi", "pcm_s16le"),
}


@pytest.fixture(scope="module")
def contents() -> "Contents":
    """Small good files of every kind, with tags and a cover where there may be."""
    found = Contents()
    with tempfile.TemporaryDirectory() as folder:
        for name, (format, subtype) in CODED.items():
            path = Path(folder) / name
            rate = 48_000 if subtype == "OPUS" else RATE
            sf.write(path, NOISE[:4_000], rate, format=format, subtype=subtype)
            if format not in ("CAF", "W64", "AU"):
                write_tags(path, TAGS)
            found[name] = path.read_bytes()
        for name, (format, codec) in CONTAINERS.items():
            path = Path(folder) / name
            contain(path, format, codec)
            found[name] = path.read_bytes()
    return found


class Contents(dict[str, bytes]):
    """Files by name; megabytes that no message should show."""

    def __repr__(self) -> str:
        return "Contents()"


def contain(path: Path, format: str, codec: str) -> None:
    rate = 48_000 if codec == "libopus" else RATE
    with av.open(str(path), "w", format=format) as container:
        container.metadata["title"] = "Lüül"
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        assert isinstance(stream, AudioStream)
        if codec in ("aac", "wmav2"):
            stream.bit_rate = 128_000
        container.start_encoding()
        samples = np.ascontiguousarray(NOISE[:6_000].T, dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = rate, 0
        size = stream.frame_size or 1_024
        resampler = av.AudioResampler(stream.format.name, "stereo", rate, frame_size=size)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))


@dataclass(frozen=True)
class Damage:
    """A way to damage a file."""

    kind: Literal["cut", "flip", "blank", "lose", "repeat", "behind", "before"]
    where: Literal["head", "anywhere", "tail"]
    count: int
    seed: int

    def done_to(self, content: bytes) -> bytes:
        random = np.random.default_rng(self.seed)
        size = len(content)
        places = {"head": (0, 128), "anywhere": (0, size), "tail": (size - 128, size)}
        low, high = places[self.where]
        at = sorted(random.integers(max(0, low), min(high, size), self.count + 1).tolist())
        first, last = at[0], at[-1]
        garbage = random.bytes(int(random.integers(1, 200)))
        if self.kind == "flip":
            changed = bytearray(content)
            for position in at:
                changed[position] ^= 1 << int(random.integers(8))
            return bytes(changed)
        return {
            "cut": content[:first],
            "blank": content[:first] + bytes(last - first) + content[last:],
            "lose": content[:first] + content[last:],
            "repeat": content[:last] + content[first:],
            "behind": content + garbage,
            "before": garbage + content,
        }[self.kind]


DAMAGES = st.builds(
    Damage,
    kind=st.sampled_from(["cut", "flip", "flip", "blank", "lose", "repeat", "behind", "before"]),
    where=st.sampled_from(["head", "anywhere", "tail"]),
    count=st.integers(1, 8),
    seed=st.integers(0, 2**16),
)


@settings(PROFILE, max_examples=120)
@given(
    damage=DAMAGES,
    name=st.sampled_from([*CODED, *CONTAINERS]),
    format=st.sampled_from(["same", "same", "wav", "flac"]),
)
def test_a_damaged_file_is_separated_or_refused_in_one_line(
    contents: Contents,
    separated: Any,
    damage: Damage,
    name: str,
    format: str,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        songs = Path(folder) / "songs"
        songs.mkdir()
        (songs / name).write_bytes(damage.done_to(contents[name]))
        (songs / "z.wav").write_bytes(contents["a.wav"])
        outcome = separated(songs, Path(folder) / "out", format=format)
        outcome.check([songs / name, songs / "z.wav"])
        outcome.check_samples()
        assert outcome.report.files[1].status == "done"
