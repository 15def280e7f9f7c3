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
    radius = first.add_(0.5).mul_(2**-16).log_().mul_(-2).sqrt_()
    angle = second.mul_(2 * pi * 2**-16)
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

    An integer is mixed by two products, a tenth of the work of Philox: numbers by the million need
    no more. One half of the key goes in before the first product and the other before the second,
    so that no two keys give the same numbers in another order.

    Source: Wellons, "Prospecting for hash functions", 2018 (its lowbias32).
    """
    low, high = (keys & WORD)[:, None], (keys >> 32)[:, None]
    # In place: at this size, time goes into memory.
    x = torch.arange(count, device=keys.device)[None] ^ low
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= high * 0x9E3779B1
    x &= WORD
    x ^= x >> 15
    x *= 0x846CA68B
    x &= WORD
    x ^= x >> 16
    return (x >> 16).to(torch.float32), (x & 0xFFFF).to(torch.float32)
