"""An original program's checkpoint as one of ours: `python -m frametx.convert`.

What network the weights belong to, and every size of it, is read from the names and shapes of the
entries (see `frametx.legacy`). The result is an ordinary checkpoint for `separate`, `evaluate` and
`init_from`; what the original did unlike us is stored in it as options, so that it returns the
original's numbers.

A checkpoint of a RoFormer by others is converted with the YAML beside it: `config=its.yaml`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from frametx import legacy
from frametx.checkpoint import load_weights, read_file, save_separator
from frametx.config import conf_dir, hydra_main
from frametx.pretrained import roformer
from frametx.stored_config import build

SUFFIXES = (".ckpt", ".safetensors")
OF_ORIGINALS = (
    *("num_heads", "options", "stems", "complement", "sample_rate", "hop_length"),
    *("chunk_frames", "top_bin"),
)  # keys of conf/convert.yaml that say nothing about a RoFormer


def convert(cfg: DictConfig) -> Path:
    """Convert the checkpoint that `cfg.input` names, as conf/convert.yaml says.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of no network we know, or the output cannot be written.
    """
    source, output = Path(str(cfg.input)).expanduser(), Path(str(cfg.output)).expanduser()
    check_output(output, overwrite=cfg.overwrite)
    if cfg.config is not None:
        return convert_roformer(cfg, source, output)
    options = cast(dict[str, Any], OmegaConf.to_container(cfg.options, resolve=True))
    try:
        state_dict = legacy.state_dict_of(read_file(source))
        if roformer.is_roformer(state_dict):
            raise ValueError("it is a RoFormer: give the YAML that came with it, config=its.yaml")
        converted = legacy.convert(
            state_dict,
            num_heads=cfg.num_heads,
            options={str(name): value for name, value in options.items() if value is not None},
        )
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    config = legacy.separator_config(
        converted,
        stems=list(cfg.stems),
        complement=cfg.complement,
        sample_rate=cfg.sample_rate,
        hop_length=cfg.hop_length,
        chunk_frames=cfg.chunk_frames,
        top_bin=cfg.top_bin,
    )
    separator = build(config)
    weights = {f"network.{name}": value for name, value in converted.weights.items()}
    load_weights(separator, weights, source)
    say_recognised(converted.name, separator, converted.config)
    return write(output, separator, config, model=converted.name)


def convert_roformer(cfg: DictConfig, source: Path, output: Path) -> Path:
    """Convert a RoFormer's checkpoint with the YAML that `cfg.config` names.

    Raises:
        FileNotFoundError: if either is not there.
        ValueError: if one of them is bad, or an option is given that only the originals have.
    """
    said = Path(str(cfg.config)).expanduser()
    usual = cast(DictConfig, OmegaConf.load(conf_dir() / "convert.yaml"))
    given = [key for key in OF_ORIGINALS if cfg[key] != usual[key]]
    if given:
        raise ValueError(f"{', '.join(given)}: {said} says all that, so leave it out")
    if not said.is_file():
        raise FileNotFoundError(f"config={said}: no such file; give the YAML beside the checkpoint")
    stored = read_file(source)
    try:
        wanted = roformer.read_config(said.read_text(encoding="utf-8"))
        found = roformer.convert(legacy.state_dict_of(stored), wanted)
    except ValueError as error:
        raise ValueError(f"{source} with {said}: {error}") from error
    separator = build(found.separator)
    load_weights(separator, {f"network.{k}": v for k, v in found.weights.items()}, source)
    say_recognised(found.model, separator, found.separator["network"])
    return write(output, separator, found.separator, model=found.model)


def say_recognised(name: str, separator: nn.Module, sizes: Mapping[str, Any]) -> None:
    """Print what network it is."""
    num_parameters = sum(parameter.numel() for parameter in separator.parameters())
    print(f"recognised {name}, {num_parameters / 1e6:.1f} M parameters:")
    print("".join(f"  {key}: {value}\n" for key, value in sizes.items()), end="")


def write(output: Path, separator: Any, config: Mapping[str, Any], *, model: str) -> Path:
    """Store what was converted, and say so."""
    output.parent.mkdir(parents=True, exist_ok=True)
    save_separator(output, separator, config, model=model)
    print(
        f"written: {output}, which gives {', '.join(separator.stems)} at {separator.sample_rate} Hz"
    )
    return output


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse before any work what could not be written in the end.

    Raises:
        ValueError: if the name has another suffix than a checkpoint's, or the file is there.
    """
    if output.suffix not in SUFFIXES:
        raise ValueError(f"output={output} must end in {' or '.join(SUFFIXES)}")
    if output.exists() and not overwrite:
        raise ValueError(f"output={output} is there already: overwrite=true replaces it")


@hydra_main("convert")
def main(cfg: DictConfig) -> None:
    """Convert one file."""
    torch.set_grad_enabled(False)
    convert(cfg)


if __name__ == "__main__":
    main()
