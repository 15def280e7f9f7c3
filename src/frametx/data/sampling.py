"""What sample n of seed s is: a pure function, the same for any number of ranks and workers.

Nothing here keeps a state. Every number comes from a counter-based generator, Philox4x32-10, whose
key is (seed, stream name) and whose counter is the sample number: a sample does not know, and need
not know, which process draws it, in which order, or in which batch.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

WORD = 0xFFFFFFFF  # 32 bits

IntOrTensor = TypeVar("IntOrTensor", int, Tensor)


def philox(
    counter: tuple[IntOrTensor, IntOrTensor, IntOrTensor, IntOrTensor], key: tuple[int, int]
) -> tuple[IntOrTensor, IntOrTensor, IntOrTensor, IntOrTensor]:
    """Four random 32-bit words for a counter of four 32-bit words.

    Takes Python integers (6 µs a call, for the crops) and int64 tensors (on any device, without
    waiting for it, for the augmentations), with the same result: the products need 64 bits, and
    int64 keeps all of them although it reads the highest as a sign, so only the shift needs a mask.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product2 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            ((product2 >> 32) & WORD) ^ c1 ^ k0,
            product2 & WORD,
            ((product0 >> 32) & WORD) ^ c3 ^ k1,
            product0 & WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3


@lru_cache(maxsize=256)
def stream_key(seed: int, stream: str) -> tuple[int, int]:
    """Philox key of one named stream of one seed: streams share no numbers."""
    digest = hashlib.blake2b(f"{seed}:{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def uniform_pair(seed: int, sample: int, stream: str) -> tuple[float, float]:
    """Two numbers in [0, 1) with 53 random bits each."""
    w0, w1, w2, w3 = philox((sample & WORD, sample >> 32, 0, 0), stream_key(seed, stream))
    return ((w0 >> 5) * 2**26 + (w1 >> 6)) / 2**53, ((w2 >> 5) * 2**26 + (w3 >> 6)) / 2**53


def uniforms(
    seed: int, samples: Int[Tensor, " B"], stream: str, count: int
) -> Float[Tensor, "B count"]:
    """`count` numbers in [0, 1) for each sample, on the device where `samples` lies.

    They have 24 random bits, what a float32 holds, and are equal on every device to the last bit.
    """
    num_blocks = -(-count // 4)
    low, high = (samples & WORD)[:, None], (samples >> 32)[:, None]
    block = torch.arange(num_blocks, device=samples.device)[None]
    low, high, block = torch.broadcast_tensors(low, high, block)
    words = philox((low, high, block, torch.zeros_like(block)), stream_key(seed, stream))
    bits = torch.stack(words, dim=-1).flatten(start_dim=1)[:, :count]
    return (bits >> 8).to(torch.float32) * 2**-24


@dataclass(frozen=True)
class Crop:
    """Where an excerpt starts: sample `start` of file number `file`, at the rate of training.

    A negative start says that the file is shorter than the excerpt: the excerpt opens with that
    much silence, and ends with what is missing at the end.
    """

    file: int
    start: int


@dataclass(frozen=True)
class CropSampler:
    """Draws excerpts of a list of files, every second of audio being as likely as any other."""

    lengths: tuple[int, ...]
    """Samples of each file, at the rate of training."""
    ends: tuple[int, ...]
    """Where each file ends when all are laid one after the other."""
    seed: int
    stream: str

    @classmethod
    def build(cls, lengths: Sequence[int], *, seed: int, stream: str) -> "CropSampler":
        """Sampler over files of these lengths; `stream` names the role they play."""
        if not lengths or min(lengths) < 1:
            raise ValueError(f"no audio to draw {stream} from: {len(lengths)} files, some empty")
        return cls(tuple(lengths), tuple(accumulate(lengths)), seed, stream)

    def draw(self, sample: int, num_samples: int, *, skip: int = 0) -> Crop:
        """The excerpt of `num_samples` samples that belongs to sample number `sample`.

        Args:
            sample: which sample of the training run.
            num_samples: length of the excerpt.
            skip: take the file that follows the drawn one by this many places, for a file
                that cannot be read.
        """
        position, offset = uniform_pair(self.seed, sample, self.stream)
        file = bisect_right(self.ends, int(position * self.ends[-1]))
        file = (file + skip) % len(self.lengths)
        # One formula for both cases: room < 0 places a short file somewhere in the silence.
        room = self.lengths[file] - num_samples
        start = int(offset * (abs(room) + 1))
        return Crop(file, start if room >= 0 else -start)
