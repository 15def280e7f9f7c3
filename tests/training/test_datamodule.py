import math

import pytest
import torch

from frametx.audio.stft import Stft
from frametx.data.tracks import Mixture
from frametx.training.curriculum import ContextCurriculum
from frametx.training.datamodule import StepSampler, TrackShare

STFT = Stft(n_fft=64, hop_length=32)
CURRICULUM = ContextCurriculum(
    stages=[
        {"until_step": 3, "frames": 9, "batch_size": 4, "accumulate": 1},
        {"until_step": None, "frames": 17, "batch_size": 2, "accumulate": 2},
    ]
)


class ThreeTracks:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Mixture:
        return Mixture(str(index), torch.ones(2, 1, 5), 8000)


def sampler(*, first_step: int = 0, rank: int = 0, world_size: int = 1) -> StepSampler:
    return StepSampler(
        curriculum=CURRICULUM,
        stft=STFT,
        first_step=first_step,
        max_steps=6,
        rank=rank,
        world_size=world_size,
        repeat_first_step=False,
    )


def test_a_resumed_sampler_goes_on_where_the_first_would_be() -> None:
    assert list(sampler())[4:] == list(sampler(first_step=4))


def test_two_ranks_draw_what_one_draws() -> None:
    ranks = [list(sampler(rank=rank, world_size=2)) for rank in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == list(sampler())


def test_crops_grow_with_the_stage() -> None:
    lengths = [{length for _, length in step} for step in sampler()]
    assert lengths == [{8 * 32}] * 3 + [{16 * 32}] * 3


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_track_is_validated_once_and_all_ranks_get_equally_many(world_size: int) -> None:
    tracks = ThreeTracks()
    shares = [TrackShare(tracks, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(share) for share in shares} == {math.ceil(3 / world_size)}
    given = [share[i] for share in shares for i in range(len(share))]
    assert sorted(track.name for track in given if track.stems.any()) == ["0", "1", "2"]
