"""Every frame transformer written down plainly, to check ours against and to time them against.

Layout and names of weights are the originals': B C F T, a transpose around every linear layer, norm
and attention, scores held in memory, three projections of their own. Nothing is slowed down on
purpose. Constructor arguments are the originals' too; arguments that an original never reads are
left out. Nothing here is used by frametx.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from .asym_unet_mct import PlainAsymUNetMCT
from .bert import PlainBert
from .frame_transformer_v1 import PlainFrameTransformerV1
from .positionwise import PlainPositionwise
from .v2b import PlainV2b
from .v3 import PlainV3
from .v7 import PlainV7
from .v8 import PlainV8
from .v9_patch import PlainV9Patch
from .v10_temporal import PlainV10Temporal

PLAIN: dict[str, Callable[..., nn.Module]] = {
    "v1": PlainFrameTransformerV1,
    "positionwise": PlainPositionwise,
    "v2b": PlainV2b,
    "v3": PlainV3,
    "bert": PlainBert,
    "asym_unet_mct": PlainAsymUNetMCT,
    "v7": PlainV7,
    "v8": PlainV8,
    "v9_patch": PlainV9Patch,
    "v10_temporal": PlainV10Temporal,
}

# A step of training at 1024 frames took 10 to 51 CPU seconds on one thread; v7 and asym_unet_mct
# were only timed at 256 frames (6 and 21). Nothing is dropped: every run has the same numbers.
CASES: dict[str, dict[str, Any]] = {
    "v1": {"n_fft": 2048, "channels": 8, "num_heads": 8, "expansion": 4, "dropout": 0.0},
    "positionwise": {
        "n_fft": 1024,
        "channels": 2,
        "num_heads": [4, 4, 4, 4, 4, 4],
        "expansion": 2,
        "dropout": 0.0,
        "frame_dropout": 0.0,
    },
    "v2b": {
        "n_fft": 2048,
        "channels": 4,
        "num_heads": 8,
        "expansion": 4,
        "transformer_channels": [4, 4, 4, 4, 4, 4, 4],
        "dropout": 0.0,
    },
    "v3": {
        "n_fft": 1024,
        "channels": 4,
        "num_heads": 8,
        "expansion": 4,
        "num_layers": 6,
        "dropout": 0.0,
    },
    "bert": {
        "n_fft": 2048,
        "channels": 2,
        "num_heads": 16,
        "expansion": 4,
        "num_layers": 4,
        "hidden_size": 1024,
        "dropout": 0.0,
    },
    "asym_unet_mct": {
        "n_fft": 2048,
        "channels": 8,
        "num_heads": 8,
        "expansion": 1024,
        "num_bridge_layers": 2,
        "num_attention_maps": 2,
        "dropout": 0.0,
    },
    "v7": {
        "n_fft": 2048,
        "channels": 8,
        "num_heads": 8,
        "num_attention_maps": 2,
        "expansions": [1024, 1024, 1024, 1024, 1024, 1024, 1024, 1024, 1024],
        "dropout": 0.0,
    },
    "v8": {
        "n_fft": 2048,
        "channels": 4,
        "num_heads": 8,
        "num_attention_maps": 1,
        "dropout": 0.0,
    },
    "v9_patch": {
        "n_fft": 2048,
        "in_channels": 10,
        "channels": 8,
        "num_heads": 8,
        "expansion": 256,
        "num_layers": 8,
        "chunk_size": 32,
        "dropout": 0.0,
    },
    "v10_temporal": {
        "n_fft": 1024,
        "embedding": 8,
        "num_heads": 8,
        "expansion": 4,
        "num_attention_maps": 1,
        "dropout": 0.0,
    },
}
