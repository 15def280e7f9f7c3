"""Open-Unmix from files as the package's training writes them; weights drawn at random."""

import json
import os
from pathlib import Path
from typing import Any, cast

import openunmix
import pytest
import torch
from openunmix.model import OpenUnmix as OneTarget
from openunmix.utils import load_separator as their_separator
from openunmix.utils import save_checkpoint
from torch import Tensor

import frametx
from frametx.checkpoint import load_separator

RATES = {"sample_rate": 8_000, "nfft": 128, "nhop": 32, "nb_channels": 2}
TARGETS = ["bass", "other", "vocals"]


def network(seed: int, **changes: Any) -> OneTarget:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "nb_bins": 65,
        "nb_channels": 2,
        "hidden_size": 8,
        "max_bin": 50,
    } | changes
    made = OneTarget(**sizes).eval()
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if value.is_floating_point():
                value.add_(0.1 if "var" in name or "mean" in name else 0.05)
    return made


def write(folder: Path, target: str, made: OneTarget) -> None:
    """As `openunmix`'s training program leaves a target behind."""
    save_checkpoint({"state_dict": made.state_dict()}, True, str(folder), target)
    arguments = {"nfft": 128, "nb_channels": 2, "hidden_size": 8}
    (folder / f"{target}.json").write_text(json.dumps({"args": arguments}))


class Runs:
    """Prints where a file that holds one is read carelessly."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("it ran",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, target in enumerate(TARGETS):
        write(tmp_path, target, network(number))
    (tmp_path / "separator.json").write_text(json.dumps(RATES))
    return tmp_path


def mixture(length: int = 1_600) -> Tensor:
    """With silence at both ends: the package's STFT reflects what is there, ours fills zeros."""
    torch.manual_seed(1)
    x = 0.3 * torch.randn(2, 2, length)
    x[..., :70] = x[..., -70:] = 0
    return x


@torch.no_grad()
def test_networks_from_a_folder_return_what_the_package_returns(folder: Path) -> None:
    ours = cast(Any, load_separator(f"openunmix:{folder}"))
    assert ours.stems == ("bass", "other", "vocals")
    theirs = their_separator(str(folder), targets=list(ours.stems), niter=0).eval()
    torch.testing.assert_close(ours(mixture()), theirs(mixture()), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_published_files_are_found_where_the_package_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the package fetches them: with a checksum in the name, and a window among the weights."""
    kept = tmp_path / "checkpoints"
    kept.mkdir()
    names = {"speech": "speech_f5e0d9f9.pth", "noise": "noise_04a6fc2d.pth"}
    for number, file in enumerate(names.values()):
        made = network(number, nb_bins=513, nb_channels=1, hidden_size=256, max_bin=513)
        torch.save(made.state_dict() | {"stft.window": torch.zeros(1024)}, kept / file)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    ours = cast(Any, load_separator("openunmix:umxse"))
    assert ours.stems == ("speech", "noise")
    assert (ours.sample_rate, ours.num_channels, ours.stft.n_fft) == (16_000, 1, 1024)
    theirs = openunmix.umxse(niter=0).eval()
    x = torch.zeros(1, 1, 4_096)
    x[..., 600:-600] = 0.3 * torch.randn(1, 1, 4_096 - 1_200)
    expected = theirs(x)
    tolerance = 1e-5 * expected.abs().max().item()
    torch.testing.assert_close(ours(x), expected, atol=tolerance, rtol=1e-5)


def test_code_among_the_files_that_the_package_keeps_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save({"fc1.weight": Runs()}, tmp_path / "checkpoints" / "speech_f5e0d9f9.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="umxse: refused, because what the package keeps in"):
        load_separator("openunmix:umxse")
    assert "it ran" not in capsys.readouterr().out
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_what_cannot_be_fetched_says_what_to_bring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(FileNotFoundError, match=r"umxl cannot be fetched \(no route to host\): br"):
        load_separator("openunmix:umxl")


def test_a_single_target_leaves_the_rest_of_the_mixture_as_a_stem(folder: Path) -> None:
    for target in ("bass", "other"):
        (folder / f"{target}.pth").unlink()
    separator = frametx.load(f"openunmix:{folder}", device="cpu")
    song = 0.1 * torch.randn(2, 5_000)
    stems = separator.separate(song, sample_rate=8_000)
    assert list(stems) == ["vocals", "instrumental"]
    total = sum(torch.as_tensor(stem) for stem in stems.values())
    torch.testing.assert_close(total, song, atol=1e-5, rtol=0)


def test_a_causal_network_with_its_own_number_of_layers_is_recognised(folder: Path) -> None:
    for number, target in enumerate(TARGETS):
        write(folder, target, network(number, unidirectional=True, nb_layers=1))
    network_of = cast(Any, load_separator(f"openunmix:{folder}")).network
    lstm = network_of.targets[0].lstm
    assert not lstm.bidirectional
    assert lstm.num_layers == 1
    assert lstm.dropout == 0.0


def test_files_that_do_not_belong_together_are_refused(folder: Path) -> None:
    place = f"openunmix:{folder}"
    write(folder, "bass", network(0, hidden_size=12))
    with pytest.raises(ValueError, match="the networks of bass and other differ in size"):
        load_separator(place)
    write(folder, "bass", network(0))
    (folder / "vocals-0123456789ab.pth").write_bytes((folder / "vocals.pth").read_bytes())
    with pytest.raises(ValueError, match=r"holds vocals twice: keep one \.pth"):
        load_separator(place)
    (folder / "vocals.pth").unlink()
    for damaged in (b"nothing", b"", b".", b"h\xf8", b"PK\x03\x04"):
        (folder / "vocals-0123456789ab.pth").write_bytes(damaged)
        with pytest.raises(ValueError, match="refused, because it is damaged"):
            load_separator(place)
    (folder / "vocals-0123456789ab.pth").unlink()
    (folder / "separator.json").write_text(json.dumps(RATES | {"nfft": 256}))
    with pytest.raises(ValueError, match="gives 65 bins, but n_fft=256 has 129"):
        load_separator(place)
    (folder / "separator.json").write_text("[]")
    with pytest.raises(ValueError, match="must say sample_rate, nfft and nhop"):
        load_separator(place)
    (folder / "separator.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"separator\.json is missing"):
        load_separator(place)
    torch.save({"fc1.weight": torch.zeros(8, 100)}, folder / "bass.pth")
    (folder / "separator.json").write_text(json.dumps(RATES))
    with pytest.raises(ValueError, match="bass is no network of Open-Unmix: it has no bn1"):
        load_separator(place)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no \.pth"):
        load_separator(f"openunmix:{tmp_path}")
    with pytest.raises(FileNotFoundError, match=r"umx9: no published .* openunmix:umxl"):
        load_separator("openunmix:umx9")
