"""Transforms of one stem on the device, one idea per file; `transform.py` says what one is.

The mixture is the sum of the transformed stems, so no transform can make stems and mixture
disagree, and none of them ever sees another stem than its own.
"""

from frametx.data.augment.codec import CodecRoughness
from frametx.data.augment.distortion import Distortion
from frametx.data.augment.dynamics import Compressor, DynamicRange, NoiseGate
from frametx.data.augment.equaliser import Bell, Shelf, SmoothEqualiser
from frametx.data.augment.filters import HighPass, LowPass
from frametx.data.augment.level import Gain, PolarityFlip
from frametx.data.augment.masks import FrequencyMask, TimeMask
from frametx.data.augment.noise import MultiplicativeNoise, PhaseNoise
from frametx.data.augment.pitch_shift import PitchShift
from frametx.data.augment.resampling import Resampling
from frametx.data.augment.reverb import RecordedRooms, Reverb, SyntheticRooms
from frametx.data.augment.stereo import ChannelSwap, Pan, SilentSide, StereoWidth
from frametx.data.augment.time_stretch import TimeStretch
from frametx.data.augment.transform import (
    Consuming,
    Drawn,
    Parameters,
    Transform,
    checked_probability,
    checked_range,
    input_samples,
    transformed,
)

__all__ = [
    "Bell",
    "ChannelSwap",
    "CodecRoughness",
    "Compressor",
    "Consuming",
    "Distortion",
    "Drawn",
    "DynamicRange",
    "FrequencyMask",
    "Gain",
    "HighPass",
    "LowPass",
    "MultiplicativeNoise",
    "NoiseGate",
    "Pan",
    "Parameters",
    "PhaseNoise",
    "PitchShift",
    "PolarityFlip",
    "RecordedRooms",
    "Resampling",
    "Reverb",
    "Shelf",
    "SilentSide",
    "SmoothEqualiser",
    "StereoWidth",
    "SyntheticRooms",
    "TimeMask",
    "TimeStretch",
    "Transform",
    "checked_probability",
    "checked_range",
    "input_samples",
    "transformed",
]
