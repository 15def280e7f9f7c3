import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from frametx.data.library import Library
from frametx.screening import Verdict, screen_file, unwanted_stems, weigh

RATE = 8_000


class BelowAndAbove(nn.Module):
    """What is above 1 kHz is voice, what is below is not."""

    def __init__(self) -> None:
        super().__init__()
        self.stems: tuple[str, ...] = ("vocals", "instrumental")
        self.sample_rate = RATE
        self.num_channels = 2
        self.chunk_samples = 16_000

    def forward(self, mixture: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(mixture)
        frequencies_hz = torch.fft.rfftfreq(mixture.shape[-1], 1 / self.sample_rate)
        above = torch.fft.irfft(spectrum * (frequencies_hz > 1000), n=mixture.shape[-1])
        return torch.stack([above, mixture - above], dim=1)


def verdict_of(folder: Path, waveform: np.ndarray, *, unwanted: list[int]) -> Verdict:
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / "a.wav", waveform, RATE, subtype="FLOAT")
    (file,) = Library.open(folder, role="any", cache_dir=folder).files
    return screen_file(file, BelowAndAbove(), unwanted=unwanted, batch_size=2, device="cpu")


def tone(hz: float, seconds: float = 20, level: float = 0.3) -> np.ndarray:
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)


def test_the_share_of_the_unwanted_is_measured(tmp_path: Path) -> None:
    mixed = tone(2000, level=0.3) + tone(300, level=0.03)
    assert verdict_of(tmp_path / "a", mixed, unwanted=[1]).unwanted_db == pytest.approx(
        -20, abs=0.3
    )
    assert verdict_of(tmp_path / "b", mixed, unwanted=[0]).unwanted_db == pytest.approx(0, abs=0.1)


def test_a_short_line_of_singing_is_found_in_its_place(tmp_path: Path) -> None:
    music = tone(300)
    music[11 * RATE : 13 * RATE] += tone(2000, 2, level=0.1)
    verdict = verdict_of(tmp_path / "a", music, unwanted=[0])
    assert verdict.at_seconds == 10
    assert verdict.unwanted_db == pytest.approx(-19.5, abs=0.5)
    assert verdict.loudest_db == pytest.approx(verdict.unwanted_db + 6, abs=0.3)


@pytest.mark.parametrize("sizes", [(1000,), (7, 300, 693), (333, 333, 334)])
def test_the_weight_does_not_depend_on_the_cut(sizes: tuple[int, ...]) -> None:
    estimates = torch.randn(2, 2, 1000, generator=torch.Generator().manual_seed(0))
    estimates[0, :, 420:450] *= 5
    verdict = weigh(estimates.split(list(sizes), dim=2), unwanted=[0], window=100)
    assert verdict.at_seconds == 400
    energies = estimates.double().square().sum(dim=(1, 2))
    assert verdict.unwanted_db == pytest.approx(float(10 * (energies[0] / energies.sum()).log10()))


def test_silence_holds_nothing_unwanted() -> None:
    assert weigh([torch.zeros(2, 1, 50)], unwanted=[0], window=10).unwanted_db == -200
    assert weigh([], unwanted=[0], window=10).unwanted_db == -200
    broken = torch.full((2, 1, 50), torch.nan)
    assert math.isnan(weigh([broken], unwanted=[0], window=10).unwanted_db)


def test_the_role_decides_what_is_unwanted() -> None:
    pair, four = ("vocals", "instrumental"), ("drums", "bass", "other", "vocals")
    for role, roles, stems, unwanted in (
        ("vocals", pair, pair, [1]),
        ("instrumental", pair, pair, [0]),
        ("instrumental", pair, four, [3]),
        ("vocals", pair, four, [0, 1, 2]),
        ("bass", four, four, [0, 2, 3]),
        ("bass", four, pair, [0]),
        ("noise", ("voice", "noise"), ("noise", "voice"), [1]),
    ):
        assert unwanted_stems(role, roles=roles, stems=stems) == unwanted
    with pytest.raises(
        ValueError, match=r"\['drums', 'rest'\] cannot tell what is wrong in vocals"
    ):
        unwanted_stems("vocals", roles=pair, stems=("drums", "rest"))
    with pytest.raises(ValueError, match="cannot tell"):
        unwanted_stems("vocals", roles=pair, stems=("vocals",))
