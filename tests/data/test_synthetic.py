from pathlib import Path

import numpy as np
import soundfile

from frametx.data.synthetic import (
    music,
    voice,
    weather,
    write_synthetic_libraries,
    write_synthetic_tracks,
)

RATE = 16_000


def test_a_voice_pauses_and_music_does_not() -> None:
    rng = np.random.default_rng(0)
    sung = voice(10 * RATE, sample_rate=RATE, rng=rng)
    played = music(10 * RATE, sample_rate=RATE, rng=rng).mean(axis=1)
    for waveform, is_paused in ((sung, True), (played, False)):
        assert np.abs(waveform).max() > 0.3
        loudness = np.abs(waveform).reshape(-1, RATE // 20).max(axis=1)
        assert (loudness < 1e-3).any() == is_paused
        assert (loudness > 0.05).mean() > 0.5


def test_a_voice_is_harmonic_below_nyquist() -> None:
    sung = voice(4 * RATE, sample_rate=RATE, rng=np.random.default_rng(1))
    power = np.abs(np.fft.rfft(sung)) ** 2
    frequency_hz = np.fft.rfftfreq(len(sung), 1 / RATE)
    assert power[frequency_hz < 60].sum() < 0.01 * power.sum()
    assert power[(frequency_hz > 90) & (frequency_hz < 5_000)].sum() > 0.95 * power.sum()


def test_music_is_wider_than_mono() -> None:
    played = music(2 * RATE, sample_rate=RATE, rng=np.random.default_rng(0))
    assert np.abs(played[:, 0] - played[:, 1]).max() > 0.01


def test_weather_has_no_pitch_and_never_pauses() -> None:
    blown = weather(4 * RATE, sample_rate=RATE, rng=np.random.default_rng(0))
    power = np.abs(np.fft.rfft(blown)) ** 2
    octaves = [power[RATE // 2**n : RATE // 2 ** (n - 1)].sum() for n in range(2, 7)]
    assert max(octaves) < 2 * min(octaves)  # 3 dB an octave is as much in each
    assert power.max() < 0.05 * power.sum()
    loudness = np.sqrt(np.square(blown).reshape(-1, RATE // 10).mean(axis=1))
    assert loudness.min() > 0.1 * loudness.max()


def test_a_stem_sounds_as_its_name_says(tmp_path: Path) -> None:
    stems = ("speech", "vocals", "noise", "drums")
    write_synthetic_libraries(
        tmp_path, seconds=0.3, num_files=1, sample_rate=RATE, seed=0, stems=stems
    )
    paths = {stem: next((tmp_path / stem).iterdir()) for stem in stems}
    channels = {stem: soundfile.info(path).channels for stem, path in paths.items()}
    assert channels == {"speech": 1, "vocals": 1, "noise": 1, "drums": 2}
    speech, noise = (soundfile.read(paths[stem])[0] for stem in ("speech", "noise"))
    flatness = [
        np.exp(np.log(power).mean()) / power.mean()
        for power in (np.abs(np.fft.rfft(sound))[10:] ** 2 for sound in (speech, noise))
    ]
    assert flatness[0] < 0.1 * flatness[1]


def test_libraries_are_the_same_for_the_same_seed_only(tmp_path: Path) -> None:
    def read(seed: int) -> dict[str, np.ndarray]:
        root = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        write_synthetic_libraries(root, seconds=0.5, num_files=2, sample_rate=RATE, seed=seed)
        return {
            path.relative_to(root).as_posix(): soundfile.read(path)[0]
            for path in root.rglob("*.wav")
        }

    first, again, other = read(0), read(0), read(1)
    assert set(first) == {
        "vocals/voice_000.wav", "vocals/voice_001.wav",
        "instrumental/music_000.wav", "instrumental/music_001.wav",
    }  # fmt: skip
    for name, waveform in first.items():
        assert len(waveform) == RATE // 2
        np.testing.assert_array_equal(waveform, again[name])
        assert not np.array_equal(waveform, other[name])
    assert not np.array_equal(first["vocals/voice_000.wav"], first["vocals/voice_001.wav"])


def test_tracks_hold_one_aligned_file_for_each_stem(tmp_path: Path) -> None:
    stems = ("vocals", "drums", "bass")
    write_synthetic_tracks(
        tmp_path, seconds=0.3, num_tracks=2, sample_rate=RATE, seed=0, stems=stems
    )
    for number in range(2):
        folder = tmp_path / f"track_{number:03d}"
        infos = [soundfile.info(folder / f"{stem}.wav") for stem in stems]
        assert {(info.frames, info.channels) for info in infos} == {(4_800, 2)}
    drums, bass = (soundfile.read(tmp_path / "track_000" / f"{s}.wav")[0] for s in stems[1:])
    assert not np.array_equal(drums, bass)
