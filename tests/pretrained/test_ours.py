"""The model that ships."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from frametx.checkpoint import load_separator, read_checkpoint
from frametx.neural_ensemble import NeuralEnsemble
from frametx.pretrained import ours, read, spleeter


def test_the_file_is_small_and_says_what_it_was_made_of() -> None:
    assert ours.FILE.stat().st_size < 10_000_000
    card = ours.card()
    assert set(card) >= {"data", "hours", "licence", "development", "benchmark", "limits", "steps"}


def test_it_is_a_refiner_of_the_published_weights_and_sums_to_the_mixture() -> None:
    separator = load_separator(ours.VOCALS)
    assert isinstance(separator, NeuralEnsemble)
    published = spleeter.read(spleeter.SPLEETER_2STEMS)
    inside = separator.members[0].get_submodule("network").state_dict()
    assert all(torch.equal(inside[key], weight) for key, weight in published.weights.items())
    mixture = 0.1 * torch.randn(1, 2, 30_000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        estimates = separator(mixture)
        alone = load_separator(spleeter.SPLEETER_2STEMS)(mixture)
    torch.testing.assert_close(estimates.sum(dim=1), mixture, atol=1e-5, rtol=0)
    assert (estimates - alone).abs().max() > 1e-4  # it has learnt something


def test_its_stored_form_is_plain_data_that_may_be_trained_on() -> None:
    stored = read_checkpoint(ours.VOCALS)
    json.dumps(stored["frametx"])
    assert stored["frametx"]["separator"]["members"] == [
        spleeter.read(spleeter.SPLEETER_2STEMS).separator
    ]


def test_other_names_and_a_missing_file_get_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="frametx:drums: no model of this name"):
        read("frametx:drums")
    monkeypatch.setattr(ours, "FILE", tmp_path / "vocals.safetensors")
    with pytest.raises(FileNotFoundError, match=r"vocals\.safetensors is missing"):
        read(ours.VOCALS)


def test_the_command_takes_it_where_no_checkpoint_is_given(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (44_100, 2)).astype(np.float32)
    sf.write(tmp_path / "song.wav", noise, 44_100)
    command = [sys.executable, "-m", "frametx.separate", "input=song.wav", "device=cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{ours.VOCALS}, the model that ships") == 1
    stems = [
        sf.read(tmp_path / "separated" / "song" / f"{stem}.wav", dtype="float32")[0]
        for stem in ("vocals", "instrumental")
    ]
    written = sf.read(tmp_path / "song.wav", dtype="float32")[0]
    np.testing.assert_allclose(sum(stems), written, atol=1e-4)
