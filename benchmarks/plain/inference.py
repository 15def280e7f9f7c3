"""The originals' loop around a network, written down plainly: a song in, a file of each stem out.

The whole song is held at every step: samples, spectrogram, magnitude and phase, windows, mask, both
stems. One step ends before the next begins. Nothing is slowed down on purpose.

Source: specs/inference.md section 1, in the order in which the last single-file program had it.
"""

from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from torch import nn


def separate_file(
    network: nn.Module,
    source: Path,
    folder: Path,
    *,
    n_fft: int = 2048,
    hop_length: int = 1024,
    sample_rate: int = 44_100,
    crop_frames: int = 1024,
    padding_frames: int = 512,
    batch_size: int = 1,
    suffix: str = ".flac",
    subtype: str | None = None,
) -> int:
    """Write both stems of a song; gives the number of windows that the network saw.

    Args:
        network: in evaluation mode; magnitude of two channels -> logits of the instruments' mask.
        source: of one or two channels.
        folder: for instrumental and vocals.
        n_fft: of the STFT; the network does not see its last bin.
        hop_length: samples.
        sample_rate: Hz, of the network and of the stems.
        crop_frames: that are kept of a window.
        padding_frames: on each side of them.
        batch_size: windows at once.
        suffix: of the stems' files.
        subtype: of their samples; None is the format's default.
    """
    wave, _ = librosa.load(source, sr=sample_rate, mono=False, dtype=np.float32)
    if wave.ndim == 1:
        wave = np.stack([wave, wave])
    channels = [librosa.stft(channel, n_fft=n_fft, hop_length=hop_length) for channel in wave]
    spectrogram = np.stack(channels)
    magnitude, phase = np.abs(spectrogram), np.angle(spectrogram)

    num_frames = magnitude.shape[2]
    fill = crop_frames - num_frames % crop_frames
    sides = (padding_frames, fill + padding_frames)
    scaled = np.pad(magnitude / magnitude.max(), ((0, 0), (0, 0), sides))
    starts = range(0, num_frames + fill, crop_frames)
    shown = crop_frames + 2 * padding_frames
    windows = np.stack([scaled[:, : n_fft // 2, start : start + shown] for start in starts])

    masks: list[np.ndarray] = []
    with torch.no_grad():
        for first in range(0, len(windows), batch_size):
            batch = torch.from_numpy(windows[first : first + batch_size])
            answer = torch.sigmoid(network(batch))
            kept = answer[..., padding_frames : padding_frames + crop_frames]
            masks.append(np.concatenate(list(kept.cpu().numpy()), axis=2))
    mask = np.concatenate(masks, axis=2)[:, :, :num_frames]
    mask = np.pad(mask, ((0, 0), (0, 1), (0, 0)))

    of_phase = np.exp(1j * phase)
    stems = {
        "instrumental": mask * magnitude * of_phase,
        "vocals": (1 - mask) * magnitude * of_phase,
    }
    for stem, of_stem in stems.items():
        waves = [librosa.istft(channel, hop_length=hop_length) for channel in of_stem]
        path = folder / f"{stem}{suffix}"
        soundfile.write(path, np.stack(waves).T, sample_rate, subtype=subtype)
    return len(windows)
