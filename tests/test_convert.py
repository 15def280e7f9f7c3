"""Original checkpoints through the command line, made of plain networks, so no file is needed."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from frametx.checkpoint import load_separator
from frametx.config import conf_dir
from frametx.convert import convert
from frametx.separator import SpectrogramSeparator

CHECKOUT = Path(__file__).parents[1]
if not (CHECKOUT / "benchmarks" / "plain").is_dir():
    pytest.skip(f"no benchmarks in {CHECKOUT}: not a checkout", allow_module_level=True)
sys.path.insert(0, str(CHECKOUT))

from benchmarks.plain import PLAIN  # noqa: E402

# tolerances of tests/fixtures/parity/README.md
REFERENCES = {
    "v1_thin": 5e-5,
    "positionwise": 2e-5,
    "v2b": 1.5e-3,
    "v2b_posemb": 1.3e-3,
    "v3": 1e-5,
    "bert": 1e-5,
    "asym_unet_mct": 1e-5,
    "asym_unet_mct_gen_vout": 5e-4,
    "v7": 1e-5,
    "v8": 3e-3,
    "v81": 1e-5,
    "v9_patch": 1e-5,
    "v10_temporal": 1e-5,
}
V3: dict[str, Any] = {
    "n_fft": 64,
    "channels": 3,
    "num_layers": 2,
    "num_heads": 2,
    "expansion": 2,
    "dropout": 0.0,
}


def original() -> nn.Module:
    torch.manual_seed(0)
    return PLAIN["v3"](**V3).eval()


def frametx(entry: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"frametx.{entry}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_converted_checkpoint_returns_the_original_numbers_and_separates(tmp_path: Path) -> None:
    network, file, ckpt = original(), tmp_path / "model.pth", tmp_path / "v3.ckpt"
    torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, file)
    done = frametx("convert", f"input={file}", f"output={ckpt}", "options.dropout=0.3")
    assert done.returncode == 0, done.stderr
    assert "recognised v3" in done.stdout
    assert "  dropout: 0.3\n" in done.stdout
    assert "  num_heads: 2\n" in done.stdout
    separator = load_separator(ckpt)
    assert isinstance(separator, SpectrogramSeparator)
    assert separator.stft.hop_length == 32
    assert separator.top_bin == "zero"
    x = torch.rand(2, 2, 32, 9)
    with torch.no_grad():
        torch.testing.assert_close(separator.network(x), network(x), atol=1e-5, rtol=0)

    song = np.random.default_rng(0).standard_normal((4410, 2)) * 0.1
    soundfile.write(tmp_path / "song.wav", song, 44100)
    done = frametx(
        "separate", f"ckpt={ckpt}", f"input={tmp_path / 'song.wav'}", f"output={tmp_path / 'out'}"
    )
    assert done.returncode == 0, done.stderr
    stems = [soundfile.read(tmp_path / "out" / "song" / f"{s}.wav")[0] for s in separator.stems]
    np.testing.assert_allclose(sum(stems), soundfile.read(tmp_path / "song.wav")[0], atol=1e-4)


def converted(*overrides: str) -> Path:
    """As the command does it, without a process of its own."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return convert(compose("convert", overrides=list(overrides)))


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_weights_are_found_one_level_down_and_both_kinds_of_file_are_written(
    suffix: str, tmp_path: Path
) -> None:
    file, output = tmp_path / "model.pth", tmp_path / f"v3{suffix}"
    torch.save({"epoch": 3, "model": original().state_dict()}, file)
    converted(f"input={file}", f"output={output}")
    assert load_separator(output).stems == ("vocals", "instrumental")


@pytest.mark.parametrize("name", REFERENCES)
def test_every_reference_network_comes_out_with_its_numbers(
    name: str, tmp_path: Path, reference: Callable[[str], dict[str, Any]]
) -> None:
    stored = reference(name)
    torch.save(stored["state_dict"], tmp_path / "model.pth")
    converted(f"input={tmp_path / 'model.pth'}", f"output={tmp_path / 'out.ckpt'}")
    separator = load_separator(tmp_path / "out.ckpt")
    assert isinstance(separator, SpectrogramSeparator)
    expected = stored["output"][0] if isinstance(stored["output"], list) else stored["output"]
    with torch.no_grad():
        logits = separator.network(stored["input"])
    torch.testing.assert_close(logits, expected, rtol=0, atol=REFERENCES[name])


def refusal(tmp_path: Path, *arguments: str, stored: Any = None) -> str:
    file = tmp_path / "model.pth"
    if stored is not None:
        torch.save(stored, file)
    with pytest.raises(ValueError, match=r".") as refused:
        converted(f"input={file}", f"output={tmp_path / 'out.ckpt'}", *arguments)
    assert not (tmp_path / "out.ckpt").exists()
    return str(refused.value)


def test_another_network_is_refused_with_the_nearest_and_what_differs(tmp_path: Path) -> None:
    stored = original().state_dict()
    del stored["transformer.1.norm2.weight"]
    assert "nearest is v3, but" in (said := refusal(tmp_path, stored=stored))
    assert "transformer.1.norm2" in said


def test_a_truncated_file_is_refused_in_one_line(tmp_path: Path) -> None:
    torch.save(original().state_dict(), tmp_path / "whole.pth")
    (tmp_path / "model.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:-5000])
    done = frametx("convert", f"input={tmp_path / 'model.pth'}", f"output={tmp_path / 'x.ckpt'}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "damaged" in done.stderr


def test_a_file_without_weights_and_an_unknown_option_are_refused(tmp_path: Path) -> None:
    assert "holds no weights of a network, but epoch, note" in refusal(
        tmp_path, stored={"epoch": 3, "note": "x"}
    )
    assert "options droput: v3 has none of that name; it has" in refusal(
        tmp_path, "+options.droput=0.2", stored=original().state_dict()
    )


def test_a_file_that_is_there_is_not_overwritten_unasked(tmp_path: Path) -> None:
    torch.save(original().state_dict(), tmp_path / "model.pth")
    output = tmp_path / "v3.ckpt"
    output.write_text("mine")
    arguments = (f"input={tmp_path / 'model.pth'}", f"output={output}")
    with pytest.raises(ValueError, match="overwrite=true"):
        converted(*arguments)
    assert output.read_text() == "mine"
    converted(*arguments, "overwrite=true")
    assert load_separator(output).sample_rate == 44_100
