"""Any song with any options: stems that add up to it, or one line that says why not."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frametx.audio.io import INTEGER_BITS, is_writable, read_audio
from frametx.audio.stem_files import FLOATS
from frametx.audio.tags import Tags, write_tags

PROFILE = settings.get_profile("bad_input")
KINDS = {
    "WAV": ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM"),
    "AIFF": ("PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW"),
    "FLAC": ("PCM_S8", "PCM_16", "PCM_24"),
    "OGG": ("VORBIS",),
    "MP3": ("MPEG_LAYER_III",),
}
RATES = (8_000, 11_025, 12_345, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000)
MODELS = {
    ("vocals", "instrumental"): ("quiet", "mono", "loud", "spectral"),
    ("vocals", "drums", "bass", "other"): ("band", "band_turned"),
}
NAMES = (
    "{folder}/{song}/{stem}",
    "{stem}/{song}",
    "{artist}/{album}/{track} {title} ({stem})",
    "{model}_{song} [{stem}]",
)


@dataclass(frozen=True)
class Sound:
    """A made-up song."""

    format: str
    subtype: str
    rate: int
    channels: int
    length: int
    shape: str
    level: float
    seed: int
    tags: dict[str, str] = field(default_factory=dict)

    def samples(self) -> np.ndarray:
        random = np.random.default_rng(self.seed)
        time = np.arange(self.length)[:, None]
        wave = {
            "silence": lambda: np.zeros((self.length, self.channels)),
            "noise": lambda: random.standard_normal((self.length, self.channels)) / 4,
            "dc": lambda: np.ones((self.length, self.channels)),
            "square": lambda: np.where(time % 50 < 25, 1.0, -1.0) * np.ones(self.channels),
            "click": lambda: (time == self.length // 2) * np.ones(self.channels),
            "faint": lambda: random.standard_normal((self.length, self.channels)) * 1e-30,
        }
        return wave[self.shape]() * self.level

    def written(self, folder: Path) -> Path:
        folder.mkdir()
        path = folder / f"song.{self.format.lower()}"
        samples = self.samples()
        if self.subtype not in FLOATS:
            samples = samples.clip(-1, 1)
        sf.write(path, samples, self.rate, format=self.format, subtype=self.subtype)
        if self.tags:
            write_tags(path, Tags(text=self.tags))
        return path


@st.composite
def sounds(draw: st.DrawFn) -> Sound:
    format = draw(st.sampled_from(list(KINDS)))
    subtype = draw(st.sampled_from(KINDS[format]))
    fits = [
        (rate, channels)
        for rate in RATES
        for channels in range(1, 9)
        if can_be_written(format, subtype, rate, channels)
    ]
    rate, channels = draw(st.sampled_from(fits))
    words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
    return Sound(
        format=format,
        subtype=subtype,
        rate=rate,
        channels=channels,
        length=draw(st.one_of(st.integers(1, 50), st.integers(1, 20_000))),
        shape=draw(
            st.sampled_from(["noise", "noise", "silence", "dc", "square", "click", "faint"])
        ),
        level=draw(st.floats(0.01, 4.0)),
        seed=draw(st.integers(0, 99)),
        tags=draw(st.dictionaries(st.sampled_from(["title", "artist", "album"]), words)),
    )


FOUND: dict[tuple[str, str, int, int], bool] = {}


def can_be_written(format: str, subtype: str, rate: int, channels: int) -> bool:
    key = (format, subtype, rate, channels)
    if key not in FOUND:
        FOUND[key] = is_writable(
            sample_rate=rate, num_channels=channels, format=format, subtype=subtype
        )
    return FOUND[key]


def absent(stems: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "absent__stem": st.sampled_from(stems),
            "absent__min_seconds": st.just(0.1),
            "absent__fade_seconds": st.just(0.05),
            "absent__threshold": st.floats(0, 1),
        }
    )


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    stems = draw(st.sampled_from(list(MODELS)))
    members = draw(st.lists(st.sampled_from(MODELS[stems]), min_size=1, max_size=2))
    rules = ["min", "max", "mean", "median", "weighted", f"min_{stems[1]}"]
    rule = draw(st.sampled_from(rules)) if len(members) > 1 else None
    aggressiveness = draw(st.one_of(st.just(1.0), st.floats(0, 4)))
    named = st.sampled_from([*([None] if len(stems) == 2 else []), *stems])
    return {
        "ckpt": members,
        "ensemble": rule,
        "weights": [1.0, draw(st.floats(0, 9))] if rule == "weighted" else None,
        "domain": draw(st.sampled_from(["magnitude", "waveform"])),
        "overlap": draw(st.one_of(st.none(), st.floats(0, 0.8))),
        "chunk_seconds": draw(st.one_of(st.none(), st.floats(0.05, 3))),
        "batch_size": draw(st.integers(1, 5)),
        "quality": draw(st.sampled_from(["fast", "balanced", "best"])),
        "tta__swap": draw(st.sampled_from([None, True, False])),
        "tta__polarity": draw(st.sampled_from([None, True, False])),
        "tta__shifts": draw(st.sampled_from([None, 0, 2])),
        "tta__contexts": draw(st.sampled_from([[], [[8, 4], [16, 0]]]))
        if members in (["spectral"], ["band_turned"])
        else [],
        "aggressiveness": aggressiveness,
        "aggressiveness_stem": draw(named) if aggressiveness != 1 else None,
        # The one that is kept clean cannot be what is left over.
        "remainder": draw(st.sampled_from([None, stems[0], stems[-1]]))
        if rule != f"min_{stems[1]}"
        else None,
        "wiener": draw(st.sampled_from([0] * 19 + [1])),  # costs seconds of a song of any length
        "fill_band": draw(st.booleans()),
        **draw(st.one_of(st.just({}), absent(stems))),
        "format": draw(st.sampled_from(["same", "same", "same", "wav", "flac", "mp3", "ogg"])),
        "clipping": draw(st.sampled_from(["float", "scale", "clip"])),
        "tags": draw(st.booleans()),
        "stems": draw(st.sampled_from([None, None, None, [stems[0]]])),
        "name": draw(st.sampled_from(NAMES)),
    }


@settings(PROFILE, max_examples=100)
@given(sound=sounds(), chosen=options())
def test_the_stems_of_any_song_are_whole_and_add_up_to_it(
    separated: Any, sound: Sound, chosen: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        song = sound.written(Path(folder) / "songs")
        outcome = separated(song.parent, Path(folder) / "out", **chosen)
        outcome.check([song])
        outcome.check_samples()
        (file,) = outcome.report.files
        if file.status == "failed":
            assert "cannot hold" in file.reason, (
                file.reason
            )  # a format without such a rate or number of channels
            return
        assert file.status == "done"
        for path in file.outputs.values():
            info = sf.info(path)
            assert (info.samplerate, info.channels) == (sound.rate, sound.channels)
        subtypes = {sf.info(path).subtype for path in file.outputs.values()}
        is_lossless = subtypes <= {*INTEGER_BITS, *FLOATS}
        if (
            is_lossless
            and len(file.outputs) == len(outcome.report.stems)
            and not file.clipped_samples
        ):
            check_sum(song, [Path(path) for path in file.outputs.values()], file.gain_db, subtypes)


def check_sum(song: Path, stems: list[Path], gain_db: float, subtypes: set[str]) -> None:
    """The stems add up to the song within a step of the coarsest format, and of their floats."""
    mixture = read_audio(song).double() * 10 ** (gain_db / 20)
    parts = torch.stack([torch.from_numpy(sf.read(p, always_2d=True)[0].T) for p in stems])
    assert parts.isfinite().all()
    step = max((2.0 ** (1 - INTEGER_BITS[s]) for s in subtypes if s in INTEGER_BITS), default=0.0)
    largest = max(float(parts.abs().max()), float(mixture.abs().max()))
    tolerance = step + 2 * len(stems) * torch.finfo(torch.float32).eps * largest
    assert float((parts.sum(dim=0) - mixture).abs().max()) <= tolerance


NOT_NUMBERS = [float("nan"), float("inf"), -float("inf")]
BELOW_0 = st.one_of(st.floats(max_value=0, exclude_max=True), st.sampled_from(NOT_NUMBERS))
WORDS = st.text("abcdefgh", min_size=1, max_size=8).map(lambda word: f"no {word}")
WRONG: dict[str, st.SearchStrategy[Any]] = {
    "overlap": st.one_of(BELOW_0, st.floats(min_value=1), WORDS),
    "chunk_seconds": st.one_of(BELOW_0, st.just(0.0), WORDS),
    "batch_size": st.integers(max_value=0),
    "quality": WORDS,
    "tta__shifts": st.one_of(st.integers(max_value=-1), WORDS),
    "tta__contexts": st.one_of(
        WORDS,
        st.just([[8, 4]]),  # the model has no frames
        st.lists(st.lists(st.integers(max_value=0)), min_size=1),
    ),
    "ensemble": WORDS,
    "domain": WORDS,
    "weights": st.lists(st.floats()),
    "remainder": WORDS,
    "aggressiveness": st.one_of(BELOW_0, WORDS),
    "aggressiveness_stem": WORDS,
    "wiener": st.one_of(st.integers(max_value=-1), st.floats(0.1, 0.9), WORDS),
    "top_bin": WORDS,
    "precision": WORDS,
    "device": WORDS,
    "format": WORDS,
    "clipping": WORDS,
    "stems": st.one_of(WORDS, st.lists(WORDS, min_size=1)),
    "name": st.one_of(WORDS, st.sampled_from(["{stem", "{stem}{x}", "../{stem}", "/{stem}"])),
    "ckpt": st.just([]),
}
WRONG |= {
    f"absent__{name}": st.one_of(BELOW_0, WORDS)
    for name in ("threshold", "min_seconds", "fade_seconds")
}
WRONG["absent__stem"] = WORDS


@settings(PROFILE, max_examples=250)
@given(data=st.data(), key=st.sampled_from(sorted(WRONG)))
def test_an_option_out_of_range_is_one_line_before_anything_is_written(
    separated: Any, data: st.DataObject, key: str
) -> None:
    value = data.draw(WRONG[key])
    with tempfile.TemporaryDirectory() as folder:
        song = Path(folder) / "song.wav"
        sf.write(song, np.zeros(100), 8_000)
        chosen = {"ckpt": ["quiet"], "absent__stem": "vocals", key: value}
        if key == "aggressiveness_stem":
            chosen["aggressiveness"] = 2.0
        with pytest.raises(ValueError, match=r".") as caught:
            separated(song, Path(folder) / "out", **chosen)
        said = str(caught.value)
        assert "\n" not in said
        assert key.rpartition("__")[2] in said.replace(" ", "_") or "chunk" in said
        assert [path.name for path in Path(folder).iterdir()] == ["song.wav"]
