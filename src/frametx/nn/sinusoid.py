"""Where a frame is, as sines and cosines of its number."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def sinusoid_table(
    num_frames: int, num_features: int, *, device: torch.device
) -> Float[Tensor, "T F"]:
    """Sine and cosine of the frame number at one frequency for every two features, in float32.

    Made anew for the number of frames at hand, so there is no longest input.

    Source: Vaswani et al., "Attention Is All You Need", 2017.
    """
    frames = torch.arange(num_frames, dtype=torch.float32, device=device)
    pairs = torch.arange(0, num_features, 2, dtype=torch.float32, device=device)
    angles = frames[:, None] * torch.exp(pairs * (-math.log(10_000.0) / num_features))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[:, :num_features]
