"""HTDemucs from files that the package itself writes; what is in them was drawn at random."""

import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn

import frametx
from frametx import pretrained
from frametx.checkpoint import build, load_separator, load_weights
from frametx.models.htdemucs import BagOfHtdemucs, Htdemucs

pytest.importorskip("demucs")

from demucs.apply import BagOfModels, apply_model
from demucs.hdemucs import HDemucs
from demucs.htdemucs import HTDemucs
from demucs.pretrained import get_model
from demucs.states import save_with_checksum, serialize_model

SMALL: dict[str, Any] = {
    "audio_channels": 2,
    "channels": 8,
    "nfft": 256,
    "depth": 2,
    "t_layers": 3,
    "t_heads": 2,
    "t_hidden_scale": 2.0,
    "bottom_channels": 12,
    "dconv_mode": 3,
    "samplerate": 8_000,
    "segment": Fraction(1, 5),
    "t_weight_pos_embed": 0.5,  # no argument of ours
}
SOURCES = ["drums", "bass", "other", "vocals"]
PUBLISHED = {  # the signatures in the package's own lists
    "htdemucs": ["955717e8"],
    "htdemucs_ft": ["f7e0c4bc", "d12395a8", "92cfc3b6", "04573f0d"],
}


def network(seed: int = 0, **changes: Any) -> HTDemucs:
    torch.manual_seed(seed)
    return HTDemucs(SOURCES, **(SMALL | changes)).eval()


def save(folder: Path, signature: str, made: nn.Module) -> None:
    """As the package's own training stores a network."""
    package = serialize_model(made, OmegaConf.create({"seed": 1, "htdemucs": {}}), half=False)
    save_with_checksum(package, folder / f"{signature}.th")


def save_safetensors(folder: Path, signature: str, made: Any) -> None:
    """As the package's pages on Hugging Face have a network; it can only read these."""
    arguments, named = made._init_args_kwargs
    fraction = {"_type": "fraction", "numerator": 1, "denominator": 5}
    notes = {
        "klass": f"{type(made).__module__}.{type(made).__name__}",
        "args": json.dumps(list(arguments)),
        "kwargs": json.dumps(named | {"segment": fraction}),
    }
    save_file(made.state_dict(), folder / f"{signature}.safetensors", metadata=notes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The published names' files, with other numbers in them."""
    for number, signature in enumerate([*PUBLISHED["htdemucs"], *PUBLISHED["htdemucs_ft"]]):
        save(tmp_path, signature, network(number))
    return tmp_path


def mixture(length: int = 1_600) -> Tensor:
    torch.manual_seed(1)
    return 0.3 * torch.randn(2, 2, length)


@torch.no_grad()
@pytest.mark.parametrize("length", [1_600, 900])
def test_a_network_from_a_folder_returns_what_the_package_returns(
    folder: Path, length: int
) -> None:
    ours = cast(Any, load_separator(f"demucs:{folder}/htdemucs"))
    assert isinstance(ours.network, Htdemucs)
    assert ours.stems == tuple(SOURCES)
    assert ours.chunk_samples == 1_600
    (theirs,) = [get_model("955717e8", folder)]
    x = mixture(length)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_bag_returns_what_the_package_returns(folder: Path) -> None:
    ours = cast(Any, load_separator(f"demucs:{folder}/htdemucs_ft"))
    assert isinstance(ours.network, BagOfHtdemucs)
    (folder / "mine.yaml").write_text(
        "models: ['955717e8', 'f7e0c4bc']\nweights: [[1, 2, 0, 1], [3, 1, 1, 0]]\nsegment: 0.1\n"
    )
    mixed = cast(Any, load_separator(f"demucs:{folder}/mine"))
    assert mixed.chunk_samples == 800
    (folder / "htdemucs_ft.yaml").write_text(
        f"models: {PUBLISHED['htdemucs_ft']}\nweights: {torch.eye(4).tolist()}\n"
    )
    x = mixture()
    theirs = apply_model(get_model("htdemucs_ft", folder), x, shifts=0, split=False)
    torch.testing.assert_close(ours(x), theirs, atol=1e-5, rtol=1e-5)
    theirs = apply_model(get_model("mine", folder), x[..., :800], shifts=0, split=False)
    torch.testing.assert_close(mixed(x[..., :800]), theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_both_formats_hold_the_same(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    save_safetensors(tmp_path / "other", "955717e8", network(0))
    one = pretrained.read(f"demucs:{folder}/htdemucs")
    other = pretrained.read(f"demucs:{tmp_path}/other/htdemucs")
    assert one.separator == other.separator
    assert one.weights.keys() == other.weights.keys()
    for name, value in one.weights.items():
        assert torch.equal(value, other.weights[name])


@torch.no_grad()
def test_what_the_package_has_fetched_once_is_found_without_the_internet(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "hub" / "checkpoints"
    kept.mkdir(parents=True)
    made = next(folder.glob("955717e8-*.th"))
    made.rename(kept / "955717e8-8726e21a.th")  # its name on the package's servers
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    ours, x = cast(Any, load_separator("demucs:htdemucs")), mixture()
    expected = network(0)(x)
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)


def test_code_among_the_files_that_the_package_keeps_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("it ran",)

    (tmp_path / "checkpoints").mkdir()
    torch.save({"klass": Runs()}, tmp_path / "checkpoints" / "955717e8-8726e21a.th")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="htdemucs: refused, because what the package keeps in"):
        load_separator("demucs:htdemucs")
    assert "it ran" not in capsys.readouterr().out


def test_a_bag_that_the_package_hands_over_is_read_like_its_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = [network(number) for number in range(1, 5)]
    bag = BagOfModels(cast(Any, networks), torch.eye(4).tolist())
    monkeypatch.setattr("demucs.pretrained.get_model", lambda name: bag)
    fetched = pretrained.read("demucs:htdemucs_ft")
    local = pretrained.read(f"demucs:{folder}/htdemucs_ft")
    assert fetched.separator == local.separator
    for name, value in local.weights.items():
        assert torch.equal(value, fetched.weights[name])


def test_what_cannot_be_fetched_says_what_to_bring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(
        FileNotFoundError,
        match=r"demucs:htdemucs cannot be fetched \(no route to host\): bring https.*955717e8-.*th",
    ):
        load_separator("demucs:htdemucs")


def test_a_song_is_separated_by_name_and_the_stems_sum_to_it(folder: Path) -> None:
    song = 0.1 * torch.randn(2, 5_000)
    separator = frametx.load(f"demucs:{folder}/htdemucs", device="cpu", remainder="other")
    stems = separator.separate(song, sample_rate=8_000)
    assert list(stems) == SOURCES
    total = sum(torch.as_tensor(stem) for stem in stems.values())
    torch.testing.assert_close(total, song, atol=1e-5, rtol=0)


def test_the_published_arguments_build_the_published_size(tmp_path: Path) -> None:
    """The package's training script for it; 42.0 million is its own count."""
    made = HTDemucs(SOURCES, bottom_channels=512, t_dropout=0.02, dconv_mode=3)
    save(tmp_path, "x", made)
    found = pretrained.read(f"demucs:{tmp_path}/x")
    separator = build(found.separator)
    load_weights(separator, {f"network.{k}": v for k, v in found.weights.items()}, "demucs:x")
    assert sum(p.numel() for p in separator.parameters()) == 41_984_456


def test_files_that_are_damaged_hold_code_or_another_network_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    place = f"demucs:{tmp_path}"
    path = next(folder.glob("955717e8-*.th"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="its checksum is not the one in its name"):
        load_separator(f"{place}/htdemucs")
    torch.manual_seed(0)
    other = HDemucs(SOURCES, channels=4, nfft=256, depth=2)
    torch.save(serialize_model(other, OmegaConf.create({}), half=False), tmp_path / "hybrid.th")
    with pytest.raises(ValueError, match="only HTDemucs is read"):
        load_separator(f"{place}/hybrid")
    torch.save({"klass": HTDemucs, "args": [print], "kwargs": {}}, tmp_path / "code.th")
    with pytest.raises(ValueError, match="refused"):
        load_separator(f"{place}/code")
    for damaged in (b"nothing", b"", b".", b"h\xf8"):
        (tmp_path / "damaged.th").write_bytes(damaged)
        with pytest.raises(ValueError, match="refused, because it is damaged"):
            load_separator(f"{place}/damaged")
    torch.save({"state": {}}, tmp_path / "nothing.th")
    torch.save({"klass": HTDemucs, "state": {}}, tmp_path / "half.th")
    save_file({}, tmp_path / "less.safetensors", {"klass": "demucs.htdemucs.HTDemucs"})
    for name in ("nothing", "half", "less"):
        with pytest.raises(ValueError, match="holds no HTDemucs"):
            load_separator(f"{place}/{name}")
    (tmp_path / "twice.th").write_bytes(b"")
    (tmp_path / "twice.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"twice\.safetensors and twice\.th .* keep one"):
        load_separator(f"{place}/twice")
    (tmp_path / "bad.yaml").write_text("models: 3")
    with pytest.raises(ValueError, match="must name networks"):
        load_separator(f"{place}/bad")


def test_what_is_missing_is_named_with_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"955717e8-\*\.th .* bring https://.*955717e8-"):
        load_separator(f"demucs:{tmp_path}/htdemucs")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        load_separator(f"demucs:{tmp_path}/none/htdemucs")
    with pytest.raises(ValueError, match="there are demucs:htdemucs, "):
        load_separator("demucs:mdx_extra")


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "demucs.htdemucs", None)
    with pytest.raises(FileNotFoundError, match=r"pip install 'frametx\[demucs\]'"):
        load_separator("demucs:htdemucs")
