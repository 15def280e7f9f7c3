"""frametx: train and use frame transformers, networks that take voices out of music.

A frame transformer treats the frames of a spectrogram as the tokens of a transformer and keeps many
channels of them in parallel. Stems go in, a mixture is made of them on the device, a separator
takes it apart again, and the same separator later takes apart people's songs.

    import frametx

    separator = frametx.load("vocals.ckpt")
    stems = separator.separate("song.flac")

Dimension letters, the same everywhere: B batch, S stems, C audio channels (or feature maps inside a
network), L waveform samples, F frequency bins, T frames.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frametx.loading import load as load
    from frametx.pipeline import Pipeline as Pipeline
    from frametx.separation_options import Absent as Absent
    from frametx.separation_options import Augmentation as Augmentation
    from frametx.separation_options import SeparationOptions as SeparationOptions

__version__ = "0.1.0"
__all__ = ["Absent", "Augmentation", "Pipeline", "SeparationOptions", "load"]


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for: commands do not wait for what they lack."""
    if name not in __all__:
        raise AttributeError(f"module 'frametx' has no attribute {name!r}")
    # by name, because the layers below take their version from here
    homes = {"load": "frametx.loading", "Pipeline": "frametx.pipeline"}
    home = homes.get(name, "frametx.separation_options")
    return getattr(importlib.import_module(home), name)
