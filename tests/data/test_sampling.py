import torch

from frametx.data.sampling import Crop, CropSampler, philox, uniform_pair, uniforms

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


def test_no_two_of_the_first_100_000_pairs_coincide() -> None:
    rate = 16_000
    vocals = CropSampler.build([rate * n for n in (30, 200, 90)], seed=0, stream="vocals")
    music = CropSampler.build([rate * n for n in (180, 240)], seed=0, stream="instrumental")
    pairs = {(vocals.draw(n, 2 * rate), music.draw(n, 2 * rate)) for n in range(100_000)}
    assert len(pairs) == 100_000


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
