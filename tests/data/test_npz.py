"""Chunks as the original programs wrote them, and the audio that they give back."""

import json
import os
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from frametx.config import conf_dir
from frametx.data import npz
from frametx.data.crops import CropReader
from frametx.data.library import Library
from frametx.data.npz import (
    StreamInverter,
    decoded_library,
    decoded_tracks,
    find_songs,
    rejected_songs,
)

RATE, N_FFT, HOP, CHUNK = 8_000, 256, 128, 32
FOLDER = f"cs{CHUNK}_sr{RATE}_hl{HOP}_nf{N_FFT}_of0"
TINY = 1e-4


def noise(seconds: float, *, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal((2, round(seconds * RATE)))
    return (0.2 * samples).astype(np.float32)


def spectrogram_of(waveform: np.ndarray, *, n_fft: int = N_FFT, hop: int = HOP) -> np.ndarray:
    """As the originals: librosa's default transform, channel by channel, complex64."""
    channels = [
        librosa.stft(np.asfortranarray(channel), n_fft=n_fft, hop_length=hop)
        for channel in waveform
    ]
    return np.asarray(channels, np.complex64)


def write_chunks(
    folder: Path,
    song: str,
    waveform: np.ndarray,
    *,
    music: np.ndarray | None = None,
    offset: int = 0,
    drops_silence: bool = False,
    hop: int = HOP,
) -> list[Path]:
    """The originals' make_padding and cutting, in other words: chunks that overlap by 2 offsets."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"X": spectrogram_of(waveform, hop=hop)}
    if music is not None:
        parts["Y"] = spectrogram_of(music, hop=hop)
    width = parts["X"].shape[2]
    roi = CHUNK - 2 * offset
    right = roi - width % roi + offset
    padded = {name: np.pad(x, ((0, 0), (0, 0), (offset, right))) for name, x in parts.items()}
    written = []
    for number in range(-(-width // roi)):
        cut: dict[str, Any] = {
            name: x[:, :, number * roi : number * roi + CHUNK] for name, x in padded.items()
        }
        if drops_silence and np.abs(cut["X"]).mean() == 0:
            continue
        path = folder / f"{song}_p{number}.npz"
        np.savez(path, **cut, c=np.abs(parts["X"]).max())
        written.append(path)
    return written


def read(folder: Path, name: str) -> np.ndarray:
    waveform, rate = soundfile.read(folder / name, dtype="float32", always_2d=True)
    assert rate == RATE
    return waveform.T


@pytest.mark.parametrize("hop", [HOP, 64, 100])
@pytest.mark.parametrize("offset", [0, 4])
def test_audio_comes_back_from_its_chunks(tmp_path: Path, hop: int, offset: int) -> None:
    waveform = noise(1.5)
    chunks = tmp_path / f"cs{CHUNK}_sr{RATE}_hl{hop}_nf{N_FFT}_of{offset}_VOCALS"
    assert len(write_chunks(chunks, "a song", waveform, offset=offset, hop=hop)) > 2
    folder = decoded_library(chunks, role="vocals", cache_dir=tmp_path / "cache")
    decoded = read(folder, "a song.wav")
    assert waveform.shape[1] - decoded.shape[1] in range(hop)
    assert np.abs(decoded - waveform[:, : decoded.shape[1]])[:, :-N_FFT].max() < TINY


def test_the_originals_own_sizes_come_back(tmp_path: Path) -> None:
    time_s = np.arange(5 * 44_100) / 44_100
    waveform = np.stack([np.sin(2 * np.pi * f * time_s) for f in (440, 554)]).astype(np.float32)
    chunks = tmp_path / "no facts in this name"
    chunks.mkdir()
    spectrogram = spectrogram_of(waveform, n_fft=2048, hop=1024)
    padded = np.pad(spectrogram, ((0, 0), (0, 0), (0, 512 - spectrogram.shape[2] % 512)))
    np.savez(chunks / "song_p0.npz", X=padded, c=1.0)
    folder = decoded_library(chunks, role="instrumental", cache_dir=tmp_path)
    decoded, rate = soundfile.read(folder / "song.wav", dtype="float32")
    assert rate == 44_100
    assert len(decoded) > 4.9 * 44_100
    assert np.abs(decoded.T - waveform[:, : len(decoded)])[:, :-2048].max() < TINY


def test_dropped_silence_is_put_back_in_its_place(tmp_path: Path) -> None:
    waveform = noise(4)
    chunk = CHUNK * HOP
    waveform[:, : round(1.2 * chunk)] = 0
    waveform[:, 3 * chunk : 6 * chunk] = 0
    chunks = tmp_path / FOLDER
    written = write_chunks(chunks, "song", waveform, drops_silence=True)
    numbers = [int(path.stem.rpartition("_p")[2]) for path in written]
    assert 0 not in numbers
    assert 4 not in numbers
    folder = decoded_library(chunks, role="vocals", cache_dir=tmp_path / "cache")
    decoded = read(folder, "song.wav")
    assert decoded.shape[1] > 3.9 * RATE
    assert np.abs(decoded - waveform[:, : decoded.shape[1]])[:, :-N_FFT].max() < TINY


@pytest.mark.parametrize("sizes", [(1, 2, 3, 40, 54), (100,), (99, 1)])
def test_the_cut_of_the_stream_does_not_matter(sizes: tuple[int, ...]) -> None:
    frames = torch.from_numpy(spectrogram_of(noise(100 * HOP / RATE)))[:, :, :100]
    frames[:, :, 30:55] = 0
    whole = StreamInverter(n_fft=N_FFT, hop_length=HOP, num_channels=2)
    expected = torch.cat([*whole.push(frames), whole.finish()], dim=1)
    inverter = StreamInverter(n_fft=N_FFT, hop_length=HOP, num_channels=2)
    pieces = [piece for part in frames.split(list(sizes), dim=2) for piece in inverter.push(part)]
    torch.testing.assert_close(torch.cat([*pieces, inverter.finish()], dim=1), expected)
    assert expected.shape[1] == 99 * HOP
    reference = librosa.istft(frames[0].numpy(), hop_length=HOP)
    assert np.abs(expected[0].numpy() - reference).max() < TINY


def test_memory_holds_a_chunk_and_not_a_gap() -> None:
    inverter = StreamInverter(n_fft=N_FFT, hop_length=HOP, num_channels=2)
    frames = torch.from_numpy(spectrogram_of(noise(0.5)))
    list(inverter.push(frames))
    inverter.push_silence(100_000)
    pieces = list(inverter.push(frames))
    assert max(piece.shape[1] for piece in pieces) <= npz.FRAMES_AT_ONCE * HOP
    assert sum(piece.shape[1] for piece in pieces) > 100_000 * HOP


def test_of_a_pair_the_role_decides_what_is_taken(tmp_path: Path) -> None:
    music, voice = noise(1, seed=1), noise(1, seed=2)
    chunks = tmp_path / (FOLDER + "_PAIRS")
    write_chunks(chunks, "song", music + voice, music=music)
    for role, expected in (("instrumental", music), ("vocals", voice)):
        folder = decoded_library(chunks, role=role, cache_dir=tmp_path / "cache")
        decoded = read(folder, "song.wav")
        assert np.abs(decoded - expected[:, : decoded.shape[1]])[:, :-N_FFT].max() < TINY


def test_pairs_become_tracks_whose_sum_is_the_mixture(tmp_path: Path) -> None:
    music, voice = noise(1, seed=1), noise(1, seed=2)
    chunks = tmp_path / (FOLDER + "_VALIDATION")
    for number in range(2):
        write_chunks(chunks, f"song {number}", music + voice, music=music)
    tracks = decoded_tracks(chunks, stems=["vocals", "instrumental"], cache_dir=tmp_path / "cache")
    assert len(tracks) == 2
    track = tracks[1]
    assert (track.name, track.sample_rate) == ("song 1", RATE)
    mixture = track.stems.sum(0).numpy()
    assert np.abs(mixture - (music + voice)[:, : mixture.shape[1]])[:, :-N_FFT].max() < TINY
    assert np.abs(track.stems[1].numpy() - music[:, : mixture.shape[1]])[:, :-N_FFT].max() < TINY


def test_a_crop_of_any_length_at_any_rate_reads_from_chunks(tmp_path: Path) -> None:
    time_s = np.arange(2 * RATE) / RATE
    waveform = np.stack([0.5 * np.sin(2 * np.pi * 440 * time_s)] * 2).astype(np.float32)
    write_chunks(tmp_path / FOLDER, "tone", waveform)
    folder = decoded_library(tmp_path / FOLDER, role="vocals", cache_dir=tmp_path / "cache")
    library = Library.open(folder, role="vocals", cache_dir=tmp_path / "cache")
    assert [file.name for file in library.files] == ["tone.wav"]
    reader = CropReader(library, sample_rate=16_000, num_channels=1, cache_dir=None)
    excerpt = reader.read(0, 8_000, 5_000)[0]
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8_000, 13_000) / 16_000)
    assert np.abs(excerpt - expected).max() < 1e-3


def test_names_in_folders_and_with_a_second_number_stay_apart(tmp_path: Path) -> None:
    chunks = tmp_path / FOLDER
    write_chunks(chunks / "artist", "song_p1", noise(0.2))
    np.savez(chunks / "other_p0.1.npz", X=spectrogram_of(noise(0.2)))
    np.savez(chunks / "other_p0.npz", X=spectrogram_of(noise(0.2)))
    write_chunks(tmp_path / "second" / FOLDER, "other", noise(0.2))
    songs = find_songs([chunks, tmp_path / "second"])
    assert [song.name for song in songs] == [
        "artist/song_p1", "cs32_sr8000_hl128_nf256_of0/other", "other", "other.1",
    ]  # fmt: skip
    again = find_songs([chunks, chunks])
    assert {song.name for song in again} >= {"other", "other (2)"}


def test_bad_chunks_are_left_out_with_their_reason(tmp_path: Path) -> None:
    chunks = tmp_path / FOLDER
    write_chunks(chunks, "good", noise(1))
    spectrogram = spectrogram_of(noise(0.5))[:, :, :CHUNK]
    cut = write_chunks(chunks, "cut", noise(1))[1]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (chunks / "text_p0.npz").write_text("this is no archive")
    np.savez(chunks / "foreign_p0.npz", weights=np.zeros(3))
    np.savez(chunks / "objects_p0.npz", X=np.array([{"a": 1}], dtype=object))
    np.savez(chunks / "magnitude_p0.npz", X=np.abs(spectrogram))
    np.savez(chunks / "bins_p0.npz", X=spectrogram[:, :65])
    spectrogram[0, 3, 3] = np.nan
    np.savez(chunks / "nan_p0.npz", X=spectrogram)
    with (chunks / "array_p0.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.warns(UserWarning, match="8 of 9 songs are left out"):
        folder = decoded_library(chunks, role="vocals", cache_dir=tmp_path / "cache")
    assert [path.name for path in folder.glob("*.wav")] == ["good.wav"]
    reasons = {file.name: file.reason for file in rejected_songs(folder)}
    expected = {
        "cut": "damaged",
        "text": "no npz file",
        "foreign": "holds weights and no X",
        "objects": "could run code",
        "magnitude": "complex numbers of channels, bins and frames",
        "bins": "has 65 bins",
        "nan": "NaN",
        "array": "single array",
    }
    assert set(reasons) == set(expected)
    for name, text in expected.items():
        assert text in reasons[name], reasons[name]
        assert f"{name}_p" in reasons[name]


def test_folders_without_a_song_are_refused(tmp_path: Path) -> None:
    options = {"role": "vocals", "cache_dir": tmp_path / "cache"}
    with pytest.raises(ValueError, match="nowhere does not exist"):
        decoded_library(tmp_path / "nowhere", **options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no \.npz file in .*empty"):
        decoded_library(tmp_path / "empty", **options)
    np.savez(tmp_path / "empty" / "a_p0.npz", Z=np.zeros(1))
    with pytest.raises(ValueError, match=r"none of the 1 songs can be read: .*a_p0"):
        decoded_library(tmp_path / "empty", **options)
    with pytest.raises(ValueError, match="role=drums"):
        decoded_library(tmp_path / "empty", role="drums", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="none of the 1 songs"):
        decoded_tracks(tmp_path / "empty", stems=["vocals", "instrumental"], cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"stems=\['drums'\]"):
        decoded_tracks(tmp_path / "empty", stems=["drums"], cache_dir=tmp_path)


def test_a_song_without_y_is_no_track(tmp_path: Path) -> None:
    write_chunks(tmp_path / FOLDER, "alone", noise(0.5))
    with pytest.raises(ValueError, match=r"alone_p0\.npz: holds no Y"):
        decoded_tracks(
            tmp_path / FOLDER, stems=["vocals", "instrumental"], cache_dir=tmp_path / "cache"
        )


def test_a_second_time_only_what_has_changed_is_made(tmp_path: Path) -> None:
    chunks = tmp_path / FOLDER
    for song in ("a", "b", "c"):
        written = write_chunks(chunks, song, noise(0.5))
    folder = decoded_library(chunks, role="vocals", cache_dir=tmp_path / "cache")
    made = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.wav")}
    assert decoded_library(chunks, role="vocals", cache_dir=tmp_path / "cache") == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.wav")} == made
    os.utime(written[0], ns=(1, 1))
    (folder / "a.wav").unlink()
    for path in chunks.glob("b_p*"):
        path.unlink()
    decoded_library(chunks, role="vocals", cache_dir=tmp_path / "cache")
    now = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.wav")}
    assert set(now) == {"a.wav", "c.wav"}
    assert now["a.wav"] > made["a.wav"]
    assert now["c.wav"] > made["c.wav"]
    (folder / npz.MANIFEST).write_text("{")
    decoded_library(chunks, role="vocals", cache_dir=tmp_path / "cache")
    assert set(json.loads((folder / npz.MANIFEST).read_text())["songs"]) == {"a", "c"}


def test_chunks_train_and_validate_through_the_config(tmp_path: Path) -> None:
    for number in range(2):
        music, voice = noise(1, seed=number), noise(1, seed=number + 5)
        write_chunks(tmp_path / "music" / FOLDER, f"song {number}", music)
        write_chunks(tmp_path / "voice" / FOLDER, f"song {number}", voice)
        write_chunks(tmp_path / "pairs" / FOLDER, f"song {number}", music + voice, music=music)
    overrides = [
        "data=npz_pairs",
        f"paths.cache_dir={tmp_path / 'cache'}",
        f"data.vocals.roots={tmp_path / 'voice'}",
        f"data.instrumental.roots={tmp_path / 'music'}",
        f"data.validation.roots={tmp_path / 'pairs'}",
        "audio=16k_mono",
        "audio.sample_rate=8000",
    ]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", overrides)
    data = instantiate(cfg.data)
    data.prepare_data()
    sample = data.source[5, 3000]
    assert sample["instrumental"].shape == (1, 3000)
    assert sample["instrumental"].std() > 0.1
    assert len(data.validation_set) == 2
