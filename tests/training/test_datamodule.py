import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from frametx.audio.stft import Stft
from frametx.config import conf_dir
from frametx.data.library import DrawRules
from frametx.data.sampling import SegmentPool
from frametx.data.synthetic import write_synthetic_libraries
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


def test_every_rule_of_drawing_reaches_the_libraries_from_the_command_line(tmp_path: Path) -> None:
    vocals, music = write_synthetic_libraries(
        tmp_path, seconds=2, num_files=3, sample_rate=8_000, seed=0
    )
    overrides = [
        "data=folders",
        f"data.vocals=[{{root: {vocals}, weight: 2}}, {music}]",
        f"data.instrumental={music}",
        "data.weighting=library",
        "data.min_loudness_db=-45",
        "data.pool={segments: 16, uses: 4}",
        f"paths.cache_dir={tmp_path}/cache",
        "paths.output_dir=none",
        "curriculum.stages=[{until_step: null, frames: 9, batch_size: 2, accumulate: 1}]",
    ]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        data = instantiate(compose("train", overrides=overrides).data)
    rules = data.libraries["vocals"].rules
    assert rules == DrawRules("library", (2.0, 1.0), -45, SegmentPool(segments=16, uses=4))
    assert data.source[(0, 500)]["vocals"].shape[-1] == 500
    for file in data.libraries["instrumental"].files:
        file.path.unlink()
    data.decode_once = False
    fresh = data.open_source()
    with (
        pytest.warns(UserWarning, match="cannot be read any more"),
        pytest.raises(ValueError, match="none of the"),
    ):
        fresh[(0, 500)]
    data.source = fresh
    assert data.num_lost_files >= len(data.libraries["instrumental"].files)
