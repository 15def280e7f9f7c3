from pathlib import Path

import numpy as np
import pytest
import soundfile

from frametx.data.decoded import UnreadableFileError, decode, decode_excerpt
from frametx.data.library import Library


def write_noise(root: Path, *, rate: int, channels: int, seconds: float = 2.5) -> Library:
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * rng.standard_normal((round(seconds * rate), channels))
    soundfile.write(root / "noise.wav", noise, rate, subtype="FLOAT")
    return Library.open(root, role="music", cache_dir=root.parent / "cache")


@pytest.mark.parametrize(("rate", "target"), [(44_100, 16_000), (16_000, 44_100), (8_000, 8_000)])
def test_an_excerpt_equals_that_part_of_the_whole(tmp_path: Path, rate: int, target: int) -> None:
    (file,) = write_noise(tmp_path / "a", rate=rate, channels=2).files
    whole = np.concatenate(list(decode(file, sample_rate=target, num_channels=2)))
    length = file.num_samples_at(target)
    assert len(whole) == length == round(2.5 * target)
    for first, last in [(0, 50), (123, 4_567), (7_919, 7_920), (length - 77, length), (0, length)]:
        excerpt = decode_excerpt(file, first, last, sample_rate=target, num_channels=2)
        assert excerpt.shape == (last - first, 2)
        np.testing.assert_allclose(excerpt, whole[first:last], atol=1e-5)


def test_a_tone_keeps_its_pitch_and_level_through_resampling(tmp_path: Path) -> None:
    rate, target, frequency_hz = 44_100, 16_000, 1_000
    tone = 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(rate) / rate)
    (tmp_path / "a").mkdir()
    soundfile.write(tmp_path / "a" / "tone.wav", tone, rate, subtype="FLOAT")
    (file,) = Library.open(tmp_path / "a", role="v", cache_dir=tmp_path).files
    excerpt = decode_excerpt(file, 3_000, 9_000, sample_rate=target, num_channels=1)[:, 0]
    expected = 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(3_000, 9_000) / target)
    np.testing.assert_allclose(excerpt, expected, atol=1e-4)


def test_channels_are_averaged_doubled_or_dropped(tmp_path: Path) -> None:
    def read(channels: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        root = tmp_path / f"{channels}"
        (file,) = write_noise(root, rate=8_000, channels=channels, seconds=0.1).files
        source, _ = soundfile.read(file.path, dtype="float32", always_2d=True)
        return source, decode_excerpt(file, 0, 800, sample_rate=8_000, num_channels=wanted)

    stereo, mono = read(2, 1)
    np.testing.assert_allclose(mono[:, 0], stereo.mean(axis=1), atol=1e-7)
    mono, doubled = read(1, 2)
    np.testing.assert_array_equal(doubled, np.repeat(mono, 2, axis=1))
    surround, front = read(6, 2)
    np.testing.assert_array_equal(front, surround[:, :2])


def test_a_file_that_has_become_shorter_ends_in_silence(tmp_path: Path) -> None:
    library = write_noise(tmp_path / "a", rate=8_000, channels=1)
    (file,) = library.files
    soundfile.write(file.path, np.full(1_000, 0.5), 8_000, subtype="FLOAT")
    whole = np.concatenate(list(decode(file, sample_rate=8_000, num_channels=1)))
    assert len(whole) == file.num_samples
    excerpt = decode_excerpt(file, 900, 1_200, sample_rate=8_000, num_channels=1)
    np.testing.assert_array_equal(excerpt, whole[900:1_200])
    assert (excerpt[:100] == 0.5).all()
    assert (excerpt[100:] == 0).all()


def test_a_vanished_or_overwritten_file_is_named(tmp_path: Path) -> None:
    (file,) = write_noise(tmp_path / "a", rate=8_000, channels=1).files
    file.path.write_text("text")
    with pytest.raises(UnreadableFileError, match=r"noise\.wav"):
        decode_excerpt(file, 0, 10, sample_rate=8_000, num_channels=1)
    file.path.unlink()
    with pytest.raises(UnreadableFileError, match=r"noise\.wav: it is gone"):
        list(decode(file, sample_rate=8_000, num_channels=1))
