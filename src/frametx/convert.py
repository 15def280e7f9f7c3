"""An original program's checkpoint as one of ours: `python -m frametx.convert`.

What network the weights belong to, and every size of it, is read from the names and shapes of the
entries (see `frametx.legacy`). The result is an ordinary checkpoint for `separate`, `evaluate` and
`init_from`; what the original did unlike us is stored in it as options, so that it returns the
original's numbers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from frametx import legacy
from frametx.checkpoint import load_weights, read_file, save_separator
from frametx.config import hydra_main

# Under these names training scripts keep a network's weights among other things.
WRAPPERS = ("state_dict", "model_state_dict", "model", "generator", "net")
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
            state_dict_of(read_file(source), source),
            num_heads=cfg.num_heads,
            options={str(name): value for name, value in options.items() if value is not None},
        )
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    config = separator_config(cfg, converted)
    separator = instantiate(config)
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


def state_dict_of(stored: Any, path: Path) -> Mapping[str, Tensor]:
    """The network's weights in what was read, at the top or one level down.

    Raises:
        ValueError: if there are none, or the file is ours.
    """
    if isinstance(stored, Mapping) and "frametx" in stored:
        raise ValueError("this is a frametx checkpoint already; separate and evaluate take it")
    candidates = [stored]
    if isinstance(stored, Mapping):
        candidates += [stored[name] for name in WRAPPERS if name in stored]
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate:
            values = candidate.values()
            if all(isinstance(value, Tensor) for value in values):
                return {str(name): value.float() for name, value in candidate.items()}
    found = ", ".join(map(str, stored)) if isinstance(stored, Mapping) else type(stored).__name__
    raise ValueError(f"it holds no weights of a network, but {found or 'nothing'}")


def separator_config(cfg: DictConfig, converted: legacy.Converted) -> dict[str, Any]:
    """What a checkpoint stores to build the separator again."""
    network = legacy.network_class(converted.name)
    n_fft = converted.config["n_fft"]
    hop_length = n_fft // 2 if cfg.hop_length is None else cfg.hop_length
    chunk_frames = cfg.chunk_frames
    if chunk_frames is None:
        chunk_frames = converted.config.get("crop_frames", 1024)
    return {
        "_target_": "frametx.separator.SpectrogramSeparator",
        "stft": {
            "_target_": "frametx.audio.stft.Stft",
            "n_fft": n_fft,
            "hop_length": hop_length,
        },
        "network": {
            "_target_": f"{network.__module__}.{network.__qualname__}",
            **converted.config,
        },
        "stems": list(cfg.stems),
        "complement": cfg.complement,
        "sample_rate": cfg.sample_rate,
        "num_channels": converted.config["in_channels"],
        "chunk_frames": chunk_frames,
        "scale": "chunk_peak",
        "top_bin": cfg.top_bin,
    }


@hydra_main("convert")
def main(cfg: DictConfig) -> None:
    """Convert one file."""
    torch.set_grad_enabled(False)
    convert(cfg)


if __name__ == "__main__":
    main()
