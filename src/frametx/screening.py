"""What does not belong in a library, such as voices in its instrumentals, found by a separator.

A file is separated in constant memory, and what the separator takes for another stem than the
file's role allows is weighed against all of it. A separator is not silent where it should be: the
share it finds in a clean file is the floor, so the order of the files says more than a threshold.

Source: the original's training was spoilt by 422 of 1,364 vocal stems with music in them; its
author found them by listening (specs/voxaug.md section 1).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.data.index import AudioFile
from frametx.data.survey import blocks_of
from frametx.execution import Execution
from frametx.separator import Separator
from frametx.streaming import separate_blocks

BLOCK_SAMPLES = 1 << 18
WINDOW_SECONDS = 5
LOWEST_DB = -200.0


@dataclass(frozen=True)
class Verdict:
    """What a separator says about one file.

    Args:
        unwanted_db: energy of the unwanted stems, re all stems, over the whole file.
        loudest_db: the same for the five seconds with the most unwanted energy, re the mean energy
            of five seconds of the file: one line of singing in a long piece stands out here.
        at_seconds: where these begin.
    """

    unwanted_db: float
    loudest_db: float
    at_seconds: float


def unwanted_stems(role: str, *, roles: Sequence[str], stems: Sequence[str]) -> list[int]:
    """Which of a separator's stems must not be in the files of a role.

    Args:
        role: of the files. Of a separator that gives it, all other stems are unwanted; of any
            other one, the stems that the data keeps in libraries of their own.
        roles: all that the data has.
        stems: what the separator gives.

    Raises:
        ValueError: if the separator knows no stem that would tell.
    """
    told = stems if role in stems else roles
    unwanted = [index for index, stem in enumerate(stems) if stem in told and stem != role]
    if not unwanted:
        raise ValueError(
            f"screen: a separator of {list(stems)} cannot tell what is wrong in {role}: "
            f"give one that separates {role} from the rest"
        )
    return unwanted


def screen_file(
    file: AudioFile,
    separator: Separator,
    *,
    unwanted: Sequence[int],
    batch_size: int,
    device: torch.device | str,
) -> Verdict:
    """Separate one file and weigh what should not be there.

    Args:
        file: of any length, rate and number of channels.
        separator: in evaluation mode, on `device`.
        unwanted: numbers of the stems that the file must not hold.
        batch_size: chunks separated at once.
        device: of the separator.

    Raises:
        ValueError: if the file is bad or an estimate is not finite.
    """
    blocks = separate_blocks(
        separator,
        blocks_of(file, block_samples=BLOCK_SAMPLES),
        sample_rate=file.sample_rate,
        overlap=0.25,
        execution=Execution(device=device, batch_size=batch_size),
    )
    verdict = weigh(blocks, unwanted=unwanted, window=WINDOW_SECONDS * file.sample_rate)
    if math.isnan(verdict.unwanted_db):
        raise ValueError(f"{file.path}: the separator's estimates hold NaN; check its checkpoint")
    return Verdict(verdict.unwanted_db, verdict.loudest_db, verdict.at_seconds / file.sample_rate)


def weigh(
    blocks: Iterable[Float[Tensor, "S C _"]], *, unwanted: Sequence[int], window: int
) -> Verdict:
    """The shares in a stream of estimates; `at_seconds` in samples.

    Args:
        blocks: of all stems.
        unwanted: numbers of stems.
        window: samples of what the loudest place is looked for with, in steps of itself.
    """
    all_energy = unwanted_energy = 0.0
    windows = [0.0]
    filled = num_samples = 0
    for block in blocks:
        square = block.double().square().sum(dim=1)
        all_energy += float(square.sum())
        bad = square[list(unwanted)].sum(dim=0)
        unwanted_energy += float(bad.sum())
        num_samples += bad.shape[0]
        while bad.numel():
            if filled == window:
                windows.append(0.0)
                filled = 0
            windows[-1] += float(bad[: window - filled].sum())
            taken = min(window - filled, bad.shape[0])
            filled, bad = filled + taken, bad[taken:]
    loudest = max(range(len(windows)), key=windows.__getitem__)
    mean = all_energy * min(window, max(num_samples, 1)) / max(num_samples, 1)
    return Verdict(
        _decibels(unwanted_energy, all_energy),
        _decibels(windows[loudest], mean),
        float(loudest * window),
    )


def _decibels(part: float, whole: float) -> float:
    if math.isnan(part) or math.isnan(whole):
        return math.nan
    return max(10 * math.log10(part / whole), LOWEST_DB) if part > 0 else LOWEST_DB
