from itertools import pairwise

import pytest
import torch

from frametx.audio.stft import Stft
from frametx.data.sampling import (
    Crop,
    CropSampler,
    SegmentPool,
    Shares,
    philox,
    uniform_pair,
    uniforms,
)
from frametx.training.curriculum import ContextCurriculum
from frametx.training.datamodule import StepSampler

WORD = 0xFFFFFFFF
# Known answers of the reference implementation, https://github.com/DEShawResearch/random123
# (tests/kat_vectors, lines "philox4x32 10").
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((WORD,) * 4, (WORD, WORD), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def test_philox_gives_the_published_answers_for_integers_and_for_tensors() -> None:
    for (c0, c1, c2, c3), key, expected in KNOWN_ANSWERS:
        assert philox((c0, c1, c2, c3), key) == expected
        t0, t1, t2, t3 = (torch.tensor([word]) for word in (c0, c1, c2, c3))
        assert tuple(int(word) for word in philox((t0, t1, t2, t3), key)) == expected


def test_no_two_of_100_000_draws_coincide_on_any_number_of_ranks_workers_and_epochs() -> None:
    rate, batch_size, num_ranks, num_workers, num_epochs = 16_000, 16, 4, 4, 3
    curriculum = ContextCurriculum(
        stages=[{"until_step": None, "frames": 65, "batch_size": batch_size, "accumulate": 1}]
    )
    max_steps = 100_000 // batch_size
    epoch_starts = [max_steps * epoch // num_epochs for epoch in range(num_epochs + 1)]

    def drawn(rank: int, world_size: int, workers: int) -> list[tuple[int, int]]:
        """What the workers of one rank are asked for: batch n goes to worker n modulo workers."""
        asked: list[tuple[int, int]] = []
        for first, last in pairwise(epoch_starts):
            batches = list(
                StepSampler(
                    curriculum=curriculum,
                    stft=Stft(n_fft=1024, hop_length=512),
                    first_step=first,
                    max_steps=last,
                    rank=rank,
                    world_size=world_size,
                    repeat_first_step=False,
                )
            )
            for worker in range(max(1, workers)):
                asked += [one for batch in batches[worker :: max(1, workers)] for one in batch]
        return asked

    def pairs(asked: list[tuple[int, int]]) -> list[tuple[Crop, Crop]]:
        # A process of its own builds its own samplers; they hold nothing but tables.
        lengths = [rate * (30 + n % 300) for n in range(1_400)]
        vocals = CropSampler.build(lengths, seed=0, stream="vocals")
        music = CropSampler.build(lengths[:900], seed=0, stream="instrumental")
        return [(vocals.draw(n, length), music.draw(n, length)) for n, length in asked]

    many = [drawn(rank, num_ranks, num_workers) for rank in range(num_ranks)]
    assert [len(asked) for asked in many] == [25_000] * num_ranks
    alone = drawn(0, 1, 0)
    assert sorted(one for asked in many for one in asked) == sorted(alone)
    by_many = [pair for asked in many for pair in pairs(asked)]
    assert len(set(by_many)) == 100_000
    assert set(pairs(alone[::17])) <= set(by_many)


def test_any_sharding_draws_the_same_excerpts() -> None:
    lengths = [1_000, 20_000, 7]
    whole = [CropSampler.build(lengths, seed=3, stream="v").draw(n, 500) for n in range(240)]
    for num_ranks in (2, 3, 8):
        shards = [
            [CropSampler.build(lengths, seed=3, stream="v").draw(n, 500) for n in numbers]
            for rank in range(num_ranks)
            for numbers in [range(rank, 240, num_ranks)]
        ]
        merged = [shards[n % num_ranks][n // num_ranks] for n in range(240)]
        assert merged == whole


def test_seeds_streams_and_samples_draw_differently() -> None:
    draws = {
        uniform_pair(seed, sample, stream)
        for seed in (0, 1)
        for sample in (0, 1, 2**32, 2**40 + 1)
        for stream in ("vocals", "instrumental")
    }
    assert len(draws) == 16


def test_every_second_of_audio_is_equally_likely() -> None:
    sampler = CropSampler.build([9_000, 1_000], seed=0, stream="v")
    crops = [sampler.draw(n, 100) for n in range(20_000)]
    share = sum(crop.file == 0 for crop in crops) / len(crops)
    assert abs(share - 0.9) < 0.01  # 4.7 standard deviations of 20,000 draws
    starts = torch.tensor([crop.start for crop in crops if crop.file == 0]).double()
    assert starts.min() >= 0
    assert starts.max() <= 8_900
    assert abs(starts.mean() - 4_450) < 100


def test_a_short_file_lies_somewhere_within_the_silence() -> None:
    sampler = CropSampler.build([10], seed=0, stream="v")
    starts = {sampler.draw(n, 14).start for n in range(200)}
    assert starts == {0, -1, -2, -3, -4}
    assert sampler.draw(5, 10) == Crop(0, 0)


def test_skipping_walks_through_all_files() -> None:
    sampler = CropSampler.build([10, 20, 30], seed=0, stream="v")
    assert {sampler.draw(7, 5, skip=skip).file for skip in range(3)} == {0, 1, 2}


def test_uniforms_of_a_sample_do_not_depend_on_its_batch() -> None:
    batch = uniforms(1, torch.tensor([4, 9, 2**33]), "gain", 7)
    for row, sample in enumerate((4, 9, 2**33)):
        assert torch.equal(uniforms(1, torch.tensor([sample]), "gain", 7)[0], batch[row])
    assert torch.equal(uniforms(1, torch.tensor([9]), "gain", 3)[0], batch[1, :3])


def test_uniforms_are_uniform_and_uncorrelated() -> None:
    drawn = uniforms(0, torch.arange(20_000), "pan", 6)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert (drawn.mean(dim=0) - 0.5).abs().max() < 0.009
    assert (drawn.var(dim=0) - 1 / 12).abs().max() < 0.003
    off_diagonal = torch.corrcoef(drawn.T) - torch.eye(6)
    assert off_diagonal.abs().max() < 0.03


def drawn_shares(shares: Shares, lengths: list[int]) -> list[float]:
    sampler = CropSampler.build(lengths, seed=0, stream="v", shares=shares)
    files = [sampler.draw(n, 10).file for n in range(20_000)]
    return [files.count(file) / len(files) for file in range(len(lengths))]


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        (Shares(), (0.6, 0.1, 0.1, 0.2)),
        (Shares(groups=(0, 1, 2, 3)), (0.25, 0.25, 0.25, 0.25)),
        (Shares(groups=(5, 5, 2, 2)), (0.5 * 6 / 7, 0.5 / 7, 0.5 / 3, 1 / 3)),
        (Shares(weights=(1.0, 1.0, 4.0, 4.0)), (6 / 19, 1 / 19, 4 / 19, 8 / 19)),
        (Shares(groups=(0, 0, 1, 1), weights=(3, 3, 1, 1)), (9 / 14, 3 / 28, 1 / 12, 1 / 6)),
        (Shares(weights=(0.0, 1.0, 1.0, 0.0)), (0.0, 0.5, 0.5, 0.0)),
    ],
)
def test_files_are_drawn_as_often_as_their_shares_say(
    shares: Shares, expected: tuple[float, ...]
) -> None:
    found = drawn_shares(shares, [6_000, 1_000, 1_000, 2_000])
    assert found == pytest.approx(expected, abs=0.014)  # 4 standard deviations of 20,000 draws
    assert [share == 0 for share in found] == [share == 0 for share in expected]


def test_weights_of_zero_everywhere_are_refused() -> None:
    sampler = CropSampler.build([100], seed=0, stream="v", shares=Shares(weights=(0.0,)))
    with pytest.raises(ValueError, match="has a weight above 0"):
        sampler.draw(0, 10)


def test_a_pool_is_a_window_that_slides_by_one_segment_every_few_samples() -> None:
    pool = SegmentPool(segments=16, uses=5)
    drawn = [pool.segment(0, sample, "v") for sample in range(5_000)]
    assert [pool.segment(0, sample, "v") for sample in reversed(range(5_000))] == drawn[::-1]
    for sample, segment in enumerate(drawn):
        assert sample // 5 <= segment < sample // 5 + 16
    inner = [drawn.count(segment) for segment in range(50, 950)]
    assert sum(inner) / len(inner) == pytest.approx(5, abs=0.15)
    assert [pool.segment(0, sample, "w") for sample in range(100)] != drawn[:100]


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(ValueError, match=r"segments \(0\) and uses \(8\) must be at least 1"):
        SegmentPool(segments=0, uses=8)
