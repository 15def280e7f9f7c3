from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frametx.models.v10_temporal import V10Temporal
from frametx.nn.frame_projection import FrameProjection

SMALL: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 3,
    "n_fft": 64,
    "channels": 2,
    "widths": [1, 2, 3],
    "num_attention_maps": 1,
    "map_widths": [1, 2, 2],
    "num_heads": 2,
    "expansion": 2,
    "kernel_size": 3,
    "projection_kernel_size": 3,
    "num_taps": 3,
    "dropout": 0.0,
    "spares_single_maps": True,
    "score_scale": "features",
    "angle_precision": "float32",
}
# the released network
ORIGINAL: dict[str, Any] = SMALL | {
    "out_channels": 2,
    "n_fft": 2048,
    "channels": 8,
    "widths": [1, 2, 4, 6, 8, 10],
    "map_widths": [1, 2, 4, 8, 12, 14],
    "num_heads": 8,
    "expansion": 4,
}


def small(**changes: Any) -> V10Temporal:
    torch.manual_seed(0)
    return V10Temporal(**(SMALL | changes)).eval()


def magnitude(*, frames: int = 13) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(2, 2, 32, frames)


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({}, 405_881_668),
        ({"channels": 2}, 400_443_954),
        (
            {"channels": 2, "n_fft": 64, "num_heads": 4, "expansion": 2},
            822_854,
        ),
    ],
)
def test_it_has_as_many_parameters_as_the_original(
    changes: dict[str, Any], parameters: int
) -> None:
    with torch.device("meta"):
        network = V10Temporal(**(ORIGINAL | changes))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@torch.no_grad()
def test_every_level_but_the_first_halves_the_frames_and_keeps_the_bins() -> None:
    network, sizes = small(), []
    for encoder in network.encoders:
        encoder.register_forward_hook(lambda _part, _in, out: sizes.append(tuple(out.shape[2:])))
    network(magnitude(frames=13))
    assert sizes == [(13, 32), (7, 32), (4, 32)]


@torch.no_grad()
def test_the_last_frame_is_seen_by_the_first() -> None:
    network, x = small(), magnitude(frames=60)
    changed = x.clone()
    changed[..., -1] = 1 - changed[..., -1]
    moved = (network(changed) - network(x)).abs().amax((0, 1, 2))
    assert moved[0] > 0


@pytest.mark.parametrize(
    ("spares", "without"), [(True, {"encoder_transformers.0.dropout"}), (False, set())]
)
def test_encoder_levels_with_one_attention_map_can_be_spared_dropout(
    spares: bool, without: set[str]
) -> None:
    network = small(dropout=0.3, spares_single_maps=spares)
    transformers = {name for name, _ in network.named_modules() if name.endswith(".dropout")}
    transformers = {name for name in transformers if "transformers" in name}
    drops = {name for name, part in network.named_modules() if isinstance(part, nn.Dropout)}
    assert transformers - drops == without
    assert len(drops) == 5 - len(without)


@torch.no_grad()
def test_both_attentions_of_a_decoder_go_on_from_the_scores_of_its_encoder() -> None:
    network, x = small(), magnitude()
    seen = {}

    def note(name: str) -> Any:
        def hook(_part: nn.Module, _args: Any, given: dict[str, Any], out: Any) -> None:
            seen[name] = (given.get("scores"), out[1])

        return hook

    for name, part in network.named_modules():
        if name.endswith("attention"):
            part.register_forward_hook(note(name), with_kwargs=True)
    network(x)
    for level in range(2):
        encoded = seen[f"encoder_transformers.{level}.attention"][1]
        for attention in ("self_attention", "skip_attention"):
            given, total = seen[f"decoder_transformers.{level}.{attention}"]
            assert given is encoded
            assert not torch.allclose(total.materialised(), encoded.materialised())
    assert seen["encoder_transformers.2.attention"][0] is None


def test_kernel_sizes_are_those_asked_for() -> None:
    network = small(kernel_size=5, projection_kernel_size=1, num_taps=5)
    kernels = {
        name: tuple(part.kernel_size)
        for name, part in network.named_modules()
        if isinstance(part, nn.Conv2d)
    }
    projections = {name: kernel for name, kernel in kernels.items() if ".to_" in name}
    assert set(projections.values()) == {(1, 1)}
    assert {kernels[name] for name in kernels.keys() - projections.keys()} == {(5, 5)}
    taps = [part.taps for part in network.modules() if isinstance(part, FrameProjection)]
    assert {kernel.shape[-1] for kernel in taps if kernel is not None} == {5}
    assert network(magnitude()).shape == (2, 3, 32, 13)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"map_widths": [1, 2]}, r"widths \(3 levels\) and map_widths \(2 levels\)"),
        ({"widths": [1], "map_widths": [1]}, "two or more"),
    ],
)
def test_levels_that_do_not_match_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small(**changes)
