import pytest

from frametx.training.curriculum import ContextCurriculum

STAGES = [
    {"until_step": 3, "frames": 8, "batch_size": 4, "accumulate": 1},
    {"until_step": 5, "frames": 16, "batch_size": 2, "accumulate": 2},
    {"until_step": 9, "frames": 32, "batch_size": 1, "accumulate": 8},
]


def test_the_stage_is_a_function_of_the_step() -> None:
    curriculum = ContextCurriculum(stages=STAGES)
    assert [curriculum.stage(step).frames for step in range(7)] == [8, 8, 8, 16, 16, 32, 32]
    assert curriculum.stage(10**6).frames == 32


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_sample_is_taken_once_whatever_the_number_of_devices(world_size: int) -> None:
    curriculum = ContextCurriculum(stages=STAGES)
    taken = [
        sample
        for step in range(8)
        for rank in range(world_size)
        for share in [curriculum.share(step, rank=rank, world_size=world_size)]
        for sample in range(share.first_sample, share.first_sample + share.num_samples)
    ]
    assert taken == list(range(len(taken)))
    assert len(taken) == 3 * 4 + 2 * 4 + 3 * 8


def test_a_micro_batch_divides_the_share_and_is_at_most_the_batch_size() -> None:
    curriculum = ContextCurriculum(stages=STAGES)
    for step in range(8):
        for world_size in (1, 2, 4):
            share = curriculum.share(step, rank=0, world_size=world_size)
            assert share.num_samples % share.micro_batch == 0
            assert share.micro_batch <= curriculum.stage(step).batch_size


def test_the_original_boundaries_keep_their_samples_per_step() -> None:
    stages = [
        {
            "until_step": until,
            "frames": frames,
            "batch_size": 2048 // frames,
            "accumulate": frames // 256,
        }
        for until, frames in ((600_000, 256), (800_000, 512), (900_000, 1024), (1_108_000, 2048))
    ]
    curriculum = ContextCurriculum(stages=stages)
    assert {stage.samples_per_step for stage in curriculum.stages} == {8}
    assert curriculum.stage(599_999).frames == 256
    assert curriculum.stage(600_000).frames == 512


def test_bad_values_are_named() -> None:
    with pytest.raises(ValueError, match="empty"):
        ContextCurriculum(stages=[])
    with pytest.raises(ValueError, match=r"stages\[0\]"):
        ContextCurriculum(stages=[{**STAGES[0], "batch_size": 0}])
    with pytest.raises(ValueError, match="until_step above"):
        ContextCurriculum(stages=[STAGES[1], STAGES[0], STAGES[2]])
    with pytest.raises(ValueError, match="3 devices cannot share the 4 samples"):
        ContextCurriculum(stages=STAGES).check(3)
