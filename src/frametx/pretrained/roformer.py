"""Checkpoints of BS- and Mel-Band RoFormers, as the `bs-roformer` package and its forks store them.

The sizes are read from the weights. What leaves no trace there is said by the YAML that comes with
such a file: the STFT, the sample rate, and what the stems are called.

Two layouts of the same weights are known: that of the package today, in which every attention and
feed-forward is the `branch` of a residual connection, and the one before, in which it is not, and
which most public checkpoints have.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
import yaml
from torch import Tensor

from frametx.pretrained.published import Pretrained

_PART = re.compile(r"layers\.(\d+)\.(\d+)\.layers\.(\d+)\.([01])\.(.+)")
_OUR_PART = re.compile(r"roformer\.layers\.(\d+)\.(\d+)\.transformer\.layers\.(\d+)\.([01])\.(.+)")
_NORM = re.compile(r"layers\.(\d+)\.(\d+)\.norm\.gamma")
_WRAPPERS = ("module.", "model.")
# What changes no number of a separation, or is read from the weights.
_SAY_NOTHING = {
    *("dim", "depth", "stereo", "num_stems", "time_transformer_depth", "freq_transformer_depth"),
    *("freqs_per_bands", "num_bands", "dim_head", "heads", "mask_estimator_depth", "sample_rate"),
    *("attn_dropout", "ff_dropout", "flash_attn", "linear_flash_attn", "sage_attention"),
    *("dim_freqs_in", "stft_n_fft", "stft_hop_length", "stft_win_length", "num_residual_streams"),
    *("multi_stft_resolution_loss_weight", "multi_stft_resolutions_window_sizes"),
    *("multi_stft_hop_size", "multi_stft_normalized", "match_input_audio_length"),
    *("use_torch_checkpoint", "mlp_expansion_factor", "linear_transformer_depth"),
    "add_value_residual",
}
# What is built here in one way alone.
_FIXED = {
    "skip_connection": False,
    "stft_normalized": False,
    "zero_dc": False,
    "use_pope": False,
    "freq_range": None,
    "num_residual_fracs": 1,
    "mc_hyper_conn_sinkhorn_iters": 2,
}


class _Loader(yaml.SafeLoader):
    """Plain YAML, and the tuples that these files have; no objects."""


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _Loader.construct_yaml_seq)


def read_config(text: str) -> dict[str, Any]:
    """What a YAML beside such a checkpoint says.

    Raises:
        ValueError: if it is no YAML of this kind.
    """
    try:
        said = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        problem = str(error).splitlines()[0]
        raise ValueError(f"it is no YAML of plain values: {problem}") from error
    if not isinstance(said, dict) or not isinstance(said.get("model"), dict):
        raise ValueError("it has no model: section with the arguments of the network")
    return said


def is_roformer(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of a RoFormer of the package, or of its forks."""
    return {"band_split.to_features.0.1.weight", "mask_estimators.0.to_freqs.0.0.0.weight"} <= {
        *_unwrapped(state_dict)
    }


def convert(state_dict: Mapping[str, Tensor], said: Mapping[str, Any]) -> Pretrained:
    """A separator of such a checkpoint, with weights under our names.

    Args:
        state_dict: as stored.
        said: by the YAML, see `read_config`.

    Raises:
        ValueError: if it is no RoFormer, or one that is not built here.
    """
    theirs = _unwrapped(state_dict)
    if not is_roformer(theirs):
        raise ValueError("these are no weights of a BS- or Mel-Band RoFormer")
    said_model = dict(said["model"])
    _check_options(said_model)
    is_mel = "final_norm.gamma" not in theirs
    places = _places(theirs, is_mel=is_mel)
    parts = [match for key in theirs if (match := _PART.fullmatch(key))]
    has_branches = any(part[5].startswith("branch.") for part in parts)
    weights = {
        ours: value
        for key, value in theirs.items()
        if (ours := _our_name(key, value, places, has_branches=has_branches)) is not None
    }
    try:
        network = _config(weights, said_model, is_mel=is_mel)
    except KeyError as error:
        lacking = str(error.args[0]).removeprefix("roformer.")
        raise ValueError(f"it has no {lacking}, as the package's networks do") from error
    sample_rate = int(said_model.get("sample_rate") or _of(said, "audio", "sample_rate") or 44_100)
    if is_mel:
        network["sample_rate"] = sample_rate
    num_stems = 1 + max(int(key.split(".")[1]) for key in theirs if key.startswith("mask_est"))
    stems, complement = _stems(said, num_stems)
    chunk = _of(said, "audio", "chunk_size") or _of(said, "inference", "chunk_size")
    separator = {
        "_target_": "frametx.waveform_separator.WaveformSeparator",
        "network": network | {"stems": stems, "complement": complement},
        "stems": stems,
        "complement": complement,
        "sample_rate": sample_rate,
        "num_channels": network["num_channels"],
        "chunk_seconds": int(chunk) / sample_rate if chunk else 8.0,
        "levels": "network",
    }
    return Pretrained("mel_band_roformer" if is_mel else "bs_roformer", separator, weights)


def _unwrapped(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without the names of what was around the network in training."""
    found = dict(state_dict)
    for wrapper in _WRAPPERS:
        if found and all(key.startswith(wrapper) for key in found):
            found = {key.removeprefix(wrapper): value for key, value in found.items()}
    return found


def _check_options(said: Mapping[str, Any]) -> None:
    """Refuse a network that ours is not.

    Raises:
        ValueError: naming the option.
    """
    for key, value in said.items():
        if key in _FIXED and value != _FIXED[key]:
            raise ValueError(f"model.{key}: {value} is not built here; {_FIXED[key]} is")
        if key not in _FIXED and key not in _SAY_NOTHING:
            raise ValueError(f"model.{key}: {value} has no counterpart here")
    n_fft = said.get("stft_n_fft", 2048)
    if said.get("stft_win_length", 2048) != n_fft:
        raise ValueError(
            f"model.stft_win_length: {said.get('stft_win_length', 2048)} must be stft_n_fft, "
            f"{n_fft}: windows are as long as the transform here"
        )


def _places(theirs: Mapping[str, Tensor], *, is_mel: bool) -> dict[int, int]:
    """Where a transformer stands in a layer of the package: its place there, by that in the file.

    Raises:
        ValueError: if a layer has more transformers than the package's has.
    """
    found = {int(match[2]) for key in theirs if (match := _PART.fullmatch(key))}
    if not is_mel and found == {0, 1}:
        return {0: 0, 1: 1}
    if is_mel and found in ({0, 1}, {1, 2}, {0, 1, 2}):
        # the forks leave out the place of a transformer over all tokens that is not there
        return {0: 1, 1: 2} if found == {0, 1} else {0: 0, 1: 1, 2: 2}
    raise ValueError(
        f"a layer has transformers at {sorted(found)}: the bs-roformer package has none of that "
        "kind (linear_transformer_depth of a BS-RoFormer?)"
    )


def _our_name(
    key: str, value: Tensor, places: Mapping[int, int], *, has_branches: bool
) -> str | None:
    """Our name of a weight; None for positions that learn nothing.

    Args:
        key: its name in the file.
        value: the weight.
        places: see `_places`.
        has_branches: the file has today's layout.

    Raises:
        ValueError: if positions are others than ours.
    """
    if key.endswith("rotary_embed.freqs"):
        pairs = torch.arange(len(value), dtype=torch.float32)
        usual = 10_000.0 ** (-pairs / len(value))
        if not torch.allclose(value.float(), usual, rtol=1e-2):  # the file may be in half precision
            raise ValueError(f"{key} has learned frequencies of its own: they have no place here")
        return None
    if norm := _NORM.fullmatch(key):
        return f"roformer.layers.{norm[1]}.{places[int(norm[2])]}.transformer.norm.gamma"
    part = _PART.fullmatch(key)
    if part is None:
        return f"roformer.{key}"
    layer, place, depth, half, rest = part.groups()
    rest = rest if has_branches else f"branch.{rest}"
    return f"roformer.layers.{layer}.{places[int(place)]}.transformer.layers.{depth}.{half}.{rest}"


def _config(
    weights: Mapping[str, Tensor], said: Mapping[str, Any], *, is_mel: bool
) -> dict[str, Any]:
    """Arguments of our class, but the stems."""
    first = "roformer.layers.0.{place}.transformer.layers.0.0.branch."
    along_frames = first.format(place=1 if is_mel else 0)
    parts = [_OUR_PART.fullmatch(key) for key in weights]
    depths = {
        place: 1 + max(int(part[3]) for part in parts if part and int(part[2]) == place)
        for place in {int(part[2]) for part in parts if part}
    }
    num_heads = weights[f"{along_frames}to_gates.weight"].shape[0]
    num_channels = 2 if said.get("stereo", False) else 1
    bands = [
        weights[f"roformer.band_split.to_features.{number}.1.weight"].shape[1] // 2 // num_channels
        for number in range(sum(key.startswith("roformer.band_split") for key in weights) // 3)
    ]
    masks = re.compile(r"roformer\.mask_estimators\.0\.to_freqs\.0\.0\.\d+\.weight")
    has_streams = any(part and not part[5].startswith("branch.") for part in parts)
    shared = {
        "num_channels": num_channels,
        "hop_length": int(said.get("stft_hop_length", 512)),
        "num_features": weights["roformer.band_split.to_features.0.1.weight"].shape[0],
        "num_layers": 1 + max(int(part[1]) for part in parts if part),
        "num_frame_layers": depths[1 if is_mel else 0],
        "num_band_layers": depths[2 if is_mel else 1],
        "num_heads": num_heads,
        "head_features": weights[f"{along_frames}to_qkv.weight"].shape[0] // 3 // num_heads,
        "num_mask_layers": sum(masks.fullmatch(key) is not None for key in weights),
        "dropout": float(max(said.get("attn_dropout") or 0, said.get("ff_dropout") or 0)),
        "num_residual_streams": int(said.get("num_residual_streams", 4)) if has_streams else 1,
        "has_value_residual": any("value_residual" in key for key in weights),
    }
    if is_mel:
        return shared | {
            "_target_": "frametx.models.mel_band_roformer.MelBandRoformer",
            "n_fft": int(said.get("stft_n_fft", 2048)),
            "num_bands": len(bands),
            "num_joint_layers": depths.get(0, 0),
        }
    return shared | {
        "_target_": "frametx.models.bs_roformer.BsRoformer",
        "n_fft": int(said.get("stft_n_fft", 2048)),
        "bins_per_band": bands,
    }


def _stems(said: Mapping[str, Any], num_stems: int) -> tuple[list[str], str | None]:
    """Names of the stems, and which of them is what the network's leave of the mixture.

    Raises:
        ValueError: if the names are not said, or are not as many as the network's stems.
    """
    names = [str(name) for name in _of(said, "training", "instruments") or []]
    target = _of(said, "training", "target_instrument")
    if target is None:
        if len(names) != num_stems or num_stems < 2:
            raise ValueError(
                f"training.instruments: {names} must name the {num_stems} stem(s) of the network, "
                "or training.target_instrument its only one"
            )
        return names, None
    if num_stems != 1:
        raise ValueError(
            f"training.target_instrument: {target} is one stem, but the network gives {num_stems}"
        )
    if set(names) == {"vocals", "other"}:  # what is no voice has a name here
        rename = {"other": "instrumental"}
        names, target = [rename.get(name, name) for name in names], rename.get(target, target)
    if len(names) != 2 or target not in names:
        names = [str(target), "rest"]
    return names, next(name for name in names if name != target)


def _of(said: Mapping[str, Any], section: str, key: str) -> Any:
    """A value of a section, or None where there is no such section or key."""
    found = said.get(section)
    return cast(Any, found).get(key) if isinstance(found, Mapping) else None
