from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.audio.stream import AudioStream

from frametx.data.stem_mp4 import STREAMS
from frametx.data.tracks import Tracks

RATE = 44_100
FOUR = ("vocals", "drums", "bass", "other")
TONES_HZ = {"mixture": 3_000, "drums": 300, "bass": 500, "other": 700, "vocals": 900}


def tone(hertz: float, num_samples: int) -> np.ndarray:
    time_s = np.arange(num_samples) / RATE
    wave = 0.3 * np.sin(2 * np.pi * hertz * time_s)
    return np.stack([wave, 0.5 * wave]).astype(np.float32)


def write_stem_mp4(path: Path, waves: list[np.ndarray]) -> Path:
    """One AAC stream for each waveform, as the files of MUSDB18 are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        streams = []
        for _ in waves:
            stream = container.add_stream("aac", rate=RATE, layout="stereo")
            assert isinstance(stream, AudioStream)
            stream.bit_rate = 256_000
            streams.append(stream)
        container.start_encoding()
        for stream, wave in zip(streams, waves, strict=True):
            for start in range(0, wave.shape[1], 1024):
                piece = np.ascontiguousarray(wave[:, start : start + 1024])
                frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="stereo")
                frame.sample_rate, frame.pts = RATE, start
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("musdb18")
    waves = [tone(TONES_HZ[stem], 30_000) for stem in STREAMS]
    for name in ("train/A - One", "train/B - Two", "test/C - Three"):
        write_stem_mp4(folder / f"{name}.stem.mp4", waves)
    return folder


def test_every_stream_becomes_its_stem(root: Path, tmp_path: Path) -> None:
    (track,) = Tracks(root, stems=FOUR, cache_dir=tmp_path)
    assert (track.name, track.sample_rate) == ("test/C - Three", RATE)
    for stem, waveform in zip(FOUR, track.stems, strict=True):
        truth = torch.from_numpy(tone(TONES_HZ[stem], track.stems.shape[-1]))
        error = (waveform - truth)[:, 2000:-2000].square().mean()  # the encoder's edges apart
        assert error < 1e-3 * truth.square().mean(), stem


def test_the_instrumental_is_the_sum_of_three_streams(root: Path, tmp_path: Path) -> None:
    (four,) = Tracks(root, stems=FOUR, cache_dir=tmp_path)
    (two,) = Tracks(root, stems=("vocals", "instrumental"), cache_dir=tmp_path)
    torch.testing.assert_close(two.stems[1], four.stems[1:].sum(0))


def test_only_the_tracks_of_a_part_are_decoded_and_each_once(root: Path, tmp_path: Path) -> None:
    tracks = Tracks(root, stems=FOUR, part="test", cache_dir=tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")}
    assert {path.parent.name for path in written} == {"C - Three"}
    assert {path.stem for path in written} == set(FOUR)
    assert Tracks(root / "test", stems=FOUR, cache_dir=tmp_path).folders == tracks.folders
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")} == written
    trained, held_out = (
        Tracks(root, stems=FOUR, part=part, cache_dir=tmp_path).names for part in ("train", "valid")
    )
    assert sorted(trained + held_out) == ["train/A - One", "train/B - Two"]


def test_a_song_that_changes_is_decoded_anew(tmp_path: Path) -> None:
    path = tmp_path / "songs" / "one.stem.mp4"
    waves = [tone(TONES_HZ[stem], 9_000) for stem in STREAMS]
    write_stem_mp4(path, waves)
    (first,) = Tracks(path.parent, stems=FOUR, cache_dir=tmp_path)
    write_stem_mp4(path, [0.5 * wave for wave in waves])
    (second,) = Tracks(path.parent, stems=FOUR, cache_dir=tmp_path)
    inner = slice(2000, -2000)  # an encoder is rough where a tone begins and ends
    torch.testing.assert_close(
        second.stems[..., inner], 0.5 * first.stems[..., inner], atol=0.02, rtol=0
    )


def test_streams_are_brought_to_one_length(tmp_path: Path) -> None:
    lengths = (9_000, 9_000, 8_000, 10_000, 9_500)
    waves = [tone(TONES_HZ[stem], length) for stem, length in zip(STREAMS, lengths, strict=True)]
    write_stem_mp4(tmp_path / "songs" / "one.stem.mp4", waves)
    (track,) = Tracks(tmp_path / "songs", stems=FOUR, cache_dir=tmp_path)
    assert track.stems.shape[-1] == pytest.approx(8_000, abs=1024)
    waves[1] = tone(300, 30_000)
    write_stem_mp4(tmp_path / "songs" / "one.stem.mp4", waves)
    with pytest.raises(ValueError, match=r"one\.stem\.mp4: its streams differ in length.*drums"):
        Tracks(tmp_path / "songs", stems=FOUR, cache_dir=tmp_path)


def test_a_file_with_other_streams_is_refused(tmp_path: Path) -> None:
    write_stem_mp4(tmp_path / "songs" / "two.stem.mp4", [tone(300, 3_000)] * 2)
    with pytest.raises(ValueError, match=r"has 2 audio stream\(s\), and MUSDB18's files have 5"):
        Tracks(tmp_path / "songs", stems=FOUR, cache_dir=tmp_path)
    (tmp_path / "songs" / "two.stem.mp4").write_bytes(b"no mp4")
    with pytest.raises(ValueError, match=r"two\.stem\.mp4: is not audio that can be read"):
        Tracks(tmp_path / "songs", stems=FOUR, cache_dir=tmp_path)


def test_both_forms_in_one_folder_are_refused(tmp_path: Path) -> None:
    songs = tmp_path / "songs"
    write_stem_mp4(songs / "one.stem.mp4", [tone(300, 3_000)] * 5)
    Tracks(songs, stems=FOUR, cache_dir=tmp_path).folders[0].rename(songs / "two")
    with pytest.raises(ValueError, match=r"folders of stems \(two\) and \.stem\.mp4 files \(one\)"):
        Tracks(songs, stems=FOUR, cache_dir=tmp_path)


def test_without_a_cache_folder_the_way_out_is_one_line(root: Path) -> None:
    with pytest.raises(ValueError, match=r"holds \.stem\.mp4 files: give a cache_dir"):
        Tracks(root, stems=FOUR)
