"""The original discriminators' state_dicts: the encoder half of a generator, and a head.

Nobody separates with them, so they are none of the variants that are recognised by themselves.

    head        entries
    linear      out.weight_pw, out.weight_dw
    patches     out.0 (convolution), out.2 (1x1)
    normalised  out.0 (norm), out.1 (convolution), out.3 (1x1)
"""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn

from frametx.legacy.asym_unet_mct import encoder_blocks, encoder_sizes
from frametx.legacy.layers import Convert, Weights, affine, conv, convert_blocks, linear, pointwise
from frametx.models.frame_discriminator import FrameDiscriminator
from frametx.nn.patch_head import LinearHead, PatchHead


def build_discriminator(
    state_dict: Mapping[str, Tensor], *, num_heads: int | None = None
) -> FrameDiscriminator:
    """An original discriminator with its weights, in evaluation mode.

    Args:
        state_dict: of the original, with or without the `module.` of a parallel wrapper.
        num_heads: of every attention, for files without rotary tables.

    Raises:
        ValueError: if this is no such state_dict, naming what is missing or has no place.
    """
    old = {key.removeprefix("module."): value for key, value in state_dict.items()}
    try:
        sizes = encoder_sizes(old, num_heads=num_heads)
        num_levels = len(sizes.widths)
        make_head, out_channels, head_blocks = _head(old)
        bridge = f"enc{num_levels}_transformer.0.attn.q_proj.weight"
        network = FrameDiscriminator(
            **sizes._asdict(),
            num_plain_levels=0,
            dropout=0.1,
            bridge_dropout=0.1,
            bridge_kernel_size=old[bridge].shape[-1] if sizes.num_bridge_layers else 3,
            score_scale="features",
            angle_precision="float32",
            restarts_bridge_residual=True,
            out_channels=out_channels,
            make_head=make_head,
        )
    except KeyError as error:
        raise ValueError(f"this is no original discriminator: it has no {error}") from error
    blocks = encoder_blocks(num_levels, num_bridge_layers=sizes.num_bridge_layers)
    network.load_state_dict(convert_blocks(old, blocks | head_blocks))
    return network.eval()


def _head(
    old: Weights,
) -> tuple[Callable[..., nn.Module], int, dict[str, tuple[str, Convert]]]:
    """What makes the head, its maps of logits, and its blocks."""
    if "out.weight_pw" in old:
        return LinearHead, len(old["out.weight_dw"]), {"head.linear": ("out", linear)}
    normalizes = "out.3.weight" in old
    conv_name, out_name = ("out.1", "out.3") if normalizes else ("out.0", "out.2")
    kernel_frames = old[f"{conv_name}.weight"].shape[-1]
    if kernel_frames not in (1, 3):
        raise ValueError(f"{conv_name}.weight sees {kernel_frames} frames, known are 1 and 3")
    blocks: dict[str, tuple[str, Convert]] = {
        "head.conv": (conv_name, conv),
        "head.out": (out_name, pointwise),
    }
    if normalizes:
        blocks["head.norm"] = ("out.0", affine)
    # the kernel of three frames always went in steps of two
    frames_per_patch = 2 if kernel_frames == 3 else 1
    make_head = partial(PatchHead, frames_per_patch=frames_per_patch, normalizes=normalizes)
    return make_head, len(old[f"{out_name}.weight"]), blocks
