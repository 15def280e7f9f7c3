"""An original program's checkpoint as one of ours: `python -m frametx.convert`.

What network the weights belong to, and every size of it, is read from the names and shapes of the
entries (see `frametx.legacy`). The result is an ordinary checkpoint for `separate`, `evaluate` and
`init_from`; what the original did unlike us is stored in it as options, so that it returns the
original's numbers.
"""

from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from frametx import legacy
from frametx.checkpoint import build, load_weights, read_file, save_separator
from frametx.config import hydra_main

SUFFIXES = (".ckpt", ".safetensors")


def convert(cfg: DictConfig) -> Path:
    """Convert the checkpoint that `cfg.input` names, as conf/convert.yaml says.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of no network we know, or the output cannot be written.
    """
    source, output = Path(str(cfg.input)).expanduser(), Path(str(cfg.output)).expanduser()
    check_output(output, overwrite=cfg.overwrite)
    options = cast(dict[str, Any], OmegaConf.to_container(cfg.options, resolve=True))
    try:
        converted = legacy.convert(
            legacy.state_dict_of(read_file(source)),
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
    num_parameters = sum(parameter.numel() for parameter in separator.parameters())
    print(f"recognised {converted.name}, {num_parameters / 1e6:.1f} M parameters:")
    print("".join(f"  {name}: {value}\n" for name, value in converted.config.items()), end="")
    output.parent.mkdir(parents=True, exist_ok=True)
    save_separator(output, separator, config, model=converted.name)
    print(f"written: {output}, which gives {', '.join(cfg.stems)} at {cfg.sample_rate} Hz")
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
