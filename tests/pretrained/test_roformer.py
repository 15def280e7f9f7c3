"""RoFormers by others: weights that the package draws and stores, in both layouts known."""

import sys
import warnings
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch import Tensor, nn

from frametx.checkpoint import build, load_separator, load_weights
from frametx.config import conf_dir
from frametx.convert import convert, main
from frametx.pretrained import roformer

bs_roformer = pytest.importorskip("bs_roformer")

SHARED: dict[str, Any] = {
    "dim": 8,
    "depth": 2,
    "stereo": True,
    "num_stems": 1,
    "time_transformer_depth": 1,
    "freq_transformer_depth": 2,
    "dim_head": 4,
    "heads": 2,
    "attn_dropout": 0.1,
    "ff_dropout": 0.1,
    "flash_attn": False,
    "stft_n_fft": 64,
    "stft_win_length": 64,
    "stft_hop_length": 16,
}
BS = SHARED | {"freqs_per_bands": (8, 8, 17), "mask_estimator_depth": 2}
MEL = SHARED | {"num_bands": 4, "sample_rate": 16_000, "mask_estimator_depth": 1}
# as the forks write it: with a tuple, and with words about training
YAML = """
audio:
  chunk_size: 3200
  sample_rate: 16000
model:
{model}
training:
  instruments: [vocals, other]
  target_instrument: vocals
  lr: 1.0e-05
inference:
  num_overlap: 2
"""


def theirs(name: str, **arguments: Any) -> nn.Module:
    """The package's network with its own weights, none of them at its start."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = getattr(bs_roformer, name)(**arguments).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:  # positions are as they are
                parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def yaml_of(arguments: dict[str, Any], **more: Any) -> str:
    lines = []
    for key, value in (arguments | more).items():
        said = "".join(f"\n    - {one}" for one in value) if isinstance(value, tuple) else value
        lines.append(f"  {key}: {'!!python/tuple' if isinstance(value, tuple) else ''}{said}")
    return YAML.format(model="\n".join(lines))


def separator_of(weights: dict[str, Tensor], said: str) -> Any:
    found = roformer.convert(weights, roformer.read_config(said))
    separator = build(found.separator)
    load_weights(separator, {f"network.{k}": v for k, v in found.weights.items()}, "x")
    return separator.eval()


def mixture() -> Tensor:
    torch.manual_seed(1)
    return 0.3 * torch.randn(2, 2, 400)


@torch.no_grad()
@pytest.mark.parametrize("streams", [4, 1])
@pytest.mark.parametrize(("name", "arguments"), [("BSRoformer", BS), ("MelBandRoformer", MEL)])
def test_weights_of_the_package_return_what_the_package_returns(
    name: str, arguments: dict[str, Any], streams: int
) -> None:
    """With all that the package has by default: value residuals, and attention over all tokens."""
    made = theirs(name, **arguments, num_residual_streams=streams)
    said = yaml_of(arguments, **({} if streams == 4 else {"num_residual_streams": streams}))
    ours = separator_of(made.state_dict(), said)
    assert ours.stems == ("vocals", "instrumental")
    assert ours.complement == "instrumental"
    assert (ours.sample_rate, ours.chunk_samples) == (16_000, 3_200)
    x = mixture()
    torch.testing.assert_close(ours(x)[:, 0], made(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours(x).sum(1), x)


def in_the_older_layout(made: nn.Module, *, shift: int) -> dict[str, Tensor]:
    """Without branches, and without a place for a transformer over all tokens."""
    weights: dict[str, Tensor] = {}
    for key, value in made.state_dict().items():
        words = key.split(".")
        if words[0] == "layers":
            words[2] = str(int(words[2]) - shift)
        older = ".".join(word for word in words if word != "branch")
        if "value_residual" not in older:
            weights[f"model.{older}"] = value
    return weights


@torch.no_grad()
def test_a_mel_band_roformer_in_the_older_layout_returns_what_the_package_returns() -> None:
    arguments = MEL | {"linear_transformer_depth": 0, "add_value_residual": False}
    made = theirs("MelBandRoformer", **arguments, num_residual_streams=1)
    weights = in_the_older_layout(made, shift=1)
    assert "model.layers.0.0.layers.0.0.norm.gamma" in weights
    assert "model.layers.1.1.norm.gamma" in weights
    # the forks counted the layers of the masks in another way, and the weights decide
    said = yaml_of(arguments | {"mask_estimator_depth": 2}, use_torch_checkpoint=True)
    ours, x = separator_of(weights, said), mixture()
    torch.testing.assert_close(ours(x)[:, 0], made(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_band_split_roformer_in_the_older_layout_returns_what_the_package_returns() -> None:
    """The package always mixes values; told to take nothing of the first layer's, it does not."""
    made = theirs("BSRoformer", **BS, num_residual_streams=1)
    for name, parameter in made.named_parameters():
        if "to_value_residual_mix" in name:
            parameter.fill_(0.0 if name.endswith("weight") else -1e4)
    weights = in_the_older_layout(made, shift=0)
    ours, x = separator_of(weights, yaml_of(BS, linear_transformer_depth=0)), mixture()
    torch.testing.assert_close(ours(x)[:, 0], made(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_network_of_all_stems_has_their_names_in_their_order() -> None:
    arguments = BS | {"num_stems": 3}
    made = theirs("BSRoformer", **arguments)
    said = yaml_of(arguments).replace("target_instrument: vocals", "target_instrument: null")
    ours = separator_of(made.state_dict(), said.replace("[vocals, other]", "[bass, other, drums]"))
    assert ours.stems == ("bass", "other", "drums")
    assert ours.complement is None
    torch.testing.assert_close(ours(mixture()), made(mixture()), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"must name the 3 stem\(s\) of the network"):
        separator_of(made.state_dict(), said)


@pytest.mark.parametrize(
    ("instruments", "target", "stems", "complement"),
    [
        ("[vocals, other]", "other", ("vocals", "instrumental"), "vocals"),
        ("[karaoke, backing]", "karaoke", ("karaoke", "backing"), "backing"),
        ("[drums, bass, other]", "drums", ("drums", "rest"), "rest"),
    ],
)
def test_a_network_of_one_stem_leaves_the_other_as_the_rest(
    instruments: str, target: str, stems: tuple[str, ...], complement: str
) -> None:
    said = yaml_of(BS).replace("[vocals, other]", instruments)
    said = said.replace("target_instrument: vocals", f"target_instrument: {target}")
    ours = separator_of(theirs("BSRoformer", **BS).state_dict(), said)
    assert (ours.stems, ours.complement) == (stems, complement)


def test_the_command_writes_a_checkpoint_that_separates(tmp_path: Path) -> None:
    made = theirs("MelBandRoformer", **MEL)
    torch.save(made.state_dict(), tmp_path / "model.ckpt")
    (tmp_path / "model.yaml").write_text(yaml_of(MEL))
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose(
            "convert",
            [
                f"input={tmp_path / 'model.ckpt'}",
                f"config={tmp_path / 'model.yaml'}",
                f"output={tmp_path / 'ours.safetensors'}",
            ],
        )
    ours, x = cast(Any, load_separator(convert(cfg))), mixture()
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[:, 0], made(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["config=none.yaml"], "config=none.yaml: no such file"),
        ([], "it is a RoFormer: give the YAML that came with it, config=its.yaml"),
        (["config=model.yaml", "sample_rate=48000", "stems=[a,b]"], "stems, sample_rate: model.ya"),
        (["config=list.yaml"], "it has no model: section"),
        (["config=code.yaml"], "it is no YAML of plain values: could not determine a constructor"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    torch.save(theirs("BSRoformer", **BS).state_dict(), tmp_path / "model.ckpt")
    (tmp_path / "model.yaml").write_text(yaml_of(BS))
    (tmp_path / "list.yaml").write_text("[1, 2]")
    (tmp_path / "code.yaml").write_text("model: !!python/object/apply:os.system [ls]")
    monkeypatch.chdir(tmp_path)
    command = ["frametx.convert", "input=model.ckpt", "output=o.ckpt", *arguments]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        main()
    GlobalHydra.instance().clear()
    torch.set_grad_enabled(True)
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2
    assert line.startswith("error: ")
    assert says in line
    assert not (tmp_path / "o.ckpt").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"skip_connection": True}, "model.skip_connection: True is not built here; False is"),
        ({"stft_normalized": True}, "model.stft_normalized: True is not built here"),
        ({"stft_win_length": 32}, "model.stft_win_length: 32 must be stft_n_fft, 64"),
        ({"swin": 3}, "model.swin: 3 has no counterpart here"),
    ],
)
def test_networks_that_are_not_built_here_are_refused_with_the_option(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        separator_of(theirs("BSRoformer", **BS).state_dict(), yaml_of(BS | changes))


def test_weights_that_would_be_misread_are_refused() -> None:
    said, weights = yaml_of(BS), theirs("BSRoformer", **BS).state_dict()
    learned = {k: v * 2 if k.endswith("freqs") else v for k, v in weights.items()}
    with pytest.raises(ValueError, match="has learned frequencies of its own"):
        separator_of(learned, said)
    extra = weights | {"layers.0.2.layers.0.0.branch.norm.gamma": torch.zeros(8)}
    with pytest.raises(ValueError, match=r"a layer has transformers at \[0, 1, 2\]"):
        separator_of(extra, said)
    with pytest.raises(ValueError, match="no weights of a BS- or Mel-Band RoFormer"):
        separator_of({"a": torch.zeros(1)}, said)
    ungated = {k: v for k, v in weights.items() if "to_gates" not in k}
    with pytest.raises(ValueError, match=r"it has no layers\.0\.0\..*to_gates\.weight, as"):
        separator_of(ungated, said)
    with pytest.raises(ValueError, match="bins_per_band has 66 bins in all"):
        separator_of(weights, yaml_of(BS | {"stereo": False}))
