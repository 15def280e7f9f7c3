"""Noise that is a function of a key and a position: the same in any batch and on any device."""

from math import pi

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frametx.data.sampling import WORD

NUM_KEY_UNIFORMS = 2


def noise_keys(uniforms: Float[Tensor, "B 2"]) -> Int[Tensor, " B"]:
    """48-bit keys of two numbers in [0, 1) with 24 random bits each."""
    high, low = (uniforms * 2**24).long().unbind(dim=1)
    return (high << 24) | low


def normal_noise(keys: Int[Tensor, " B"], count: int) -> Float[Tensor, "B count"]:
    """Normal numbers with mean 0 and variance 1; the first ones are the same for every count."""
    first, second = _half_words(keys, -(-count // 2))
    radius = (-2 * ((first + 0.5) * 2**-16).log()).sqrt()
    angle = second * (2 * pi * 2**-16)
    pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
    return pairs.flatten(start_dim=1)[:, :count]


def even_noise(keys: Int[Tensor, " B"], count: int) -> Float[Tensor, "B count"]:
    """Numbers evenly between -1 and 1; the first ones are the same for every count."""
    pairs = torch.stack(_half_words(keys, -(-count // 2)), dim=-1)
    return (pairs.flatten(start_dim=1)[:, :count] + 0.5) * 2**-15 - 1


def _half_words(
    keys: Int[Tensor, " B"], count: int
) -> tuple[Float[Tensor, "B count"], Float[Tensor, "B count"]]:
    """Two 16-bit numbers for each position.

    The mixing function has a 32-bit bias of 0.1 % and takes two products, a third of the work of
    Philox; numbers by the million need no more.

    Source: Wellons, "Prospecting for hash functions", 2018 (its lowbias32).
    """
    low, high = (keys & WORD)[:, None], (keys >> 32)[:, None]
    x = torch.arange(count, device=keys.device)[None] + low * 0x9E3779B1
    for word in (high, low):
        x = (x ^ word) & WORD
        x = x ^ (x >> 16)
        x = (x * 0x7FEB352D) & WORD
        x = x ^ (x >> 15)
        x = (x * 0x846CA68B) & WORD
        x = x ^ (x >> 16)
    return (x >> 16).to(torch.float32), (x & 0xFFFF).to(torch.float32)
