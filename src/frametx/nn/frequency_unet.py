"""The two halves of a U-Net over frequency: every level but the first has half the features.

Levels count from the top. A decoder has its level's number, so the last one is the deepest, and
there is one less than there are encoders.
"""

from collections.abc import Callable, Sequence

from torch import nn

from frametx.nn.frame_decoder import FrameDecoder

MakeBlock = Callable[..., nn.Module]


def frequency_encoders(
    make_blocks: Sequence[MakeBlock],
    *,
    in_channels: int,
    num_stream_maps: Sequence[int],
    num_maps: Sequence[int],
    num_features: Sequence[int],
    stride: tuple[int, int] = (1, 2),
) -> nn.ModuleList:
    """A block for every level, from the stream of the level above to the level's own maps.

    Args:
        make_blocks: for every level, what makes a block of `in_channels`, `out_channels`,
            `num_features` that come in, and `stride`.
        in_channels: maps that enter the first.
        num_stream_maps: maps that leave each level: those of the block, and what joins them.
        num_maps: maps that leave each block.
        num_features: features of a frame at each level.
        stride: frames and bins that become one at every level but the first.
    """
    above = [in_channels, *num_stream_maps]
    features_above = [num_features[0], *num_features]
    return nn.ModuleList(
        make_block(
            in_channels=above[level],
            out_channels=maps,
            num_features=features_above[level],
            stride=stride if level else (1, 1),
        )
        for level, (make_block, maps) in enumerate(zip(make_blocks, num_maps, strict=True))
    )


def frequency_decoders(
    make_blocks: Sequence[MakeBlock],
    *,
    num_from_below: Sequence[int],
    num_skip_maps: Sequence[int],
    num_maps: Sequence[int],
    num_features: Sequence[int],
    rounds_interpolation: bool = False,
) -> nn.ModuleList:
    """A decoder for every level but the deepest.

    Args:
        make_blocks: for every level, what makes a block of `in_channels`, `out_channels` and
            `num_features`.
        num_from_below: for every decoder, maps that come up to it.
        num_skip_maps: maps of the encoder's stream at each level.
        num_maps: maps that leave each block.
        num_features: features of a frame at each level.
        rounds_interpolation: see `FrameDecoder`.
    """
    return nn.ModuleList(
        FrameDecoder(
            body=make_blocks[level](
                in_channels=below + num_skip_maps[level],
                out_channels=num_maps[level],
                num_features=num_features[level],
            ),
            rounds_interpolation=rounds_interpolation,
        )
        for level, below in enumerate(num_from_below)
    )
