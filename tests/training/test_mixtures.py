from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from frametx.config import conf_dir
from frametx.data.synthetic import write_synthetic_libraries
from frametx.training.mixtures import DrawnExcerpts, MixtureCrops, MixturesDataModule


@pytest.fixture
def data(tmp_path: Path) -> MixturesDataModule:
    write_synthetic_libraries(tmp_path, seconds=1.0, num_files=4, sample_rate=8_000, seed=0)
    overrides = [
        "data=mixtures",
        f"data.mixtures={tmp_path / 'instrumental'}",
        "data.held_out=0.4",
        "data.held_out_excerpts=3",
        "data.held_out_seconds=0.5",
        "audio.sample_rate=8000",
        f"paths.cache_dir={tmp_path / 'cache'}",
        "paths.output_dir=none",
    ]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return instantiate(compose("train", overrides).data)


def test_songs_that_are_validated_on_are_never_trained_on(data: MixturesDataModule) -> None:
    held_out, source = data.validation_set, data.source
    assert isinstance(held_out, DrawnExcerpts)
    assert isinstance(source, MixtureCrops)
    parts = (source.crops.reader.library, held_out.crops.reader.library)
    trained, kept = ({file.name for file in library.files} for library in parts)
    assert trained
    assert kept
    assert not trained & kept
    assert len(trained | kept) == 4


def test_a_sample_is_the_same_excerpt_whenever_it_is_asked(data: MixturesDataModule) -> None:
    one, again, other = data.source[(3, 500)], data.source[(3, 500)], data.source[(4, 500)]
    assert one["stems"].shape == (1, 2, 500)
    assert torch.equal(one["stems"], again["stems"])
    assert not torch.equal(one["stems"], other["stems"])
    assert data.source.describe(3, 500).endswith(" s")


def test_swapped_sides_are_all_that_chance_does_to_a_song(data: MixturesDataModule) -> None:
    samples = [data.source[(n, 300)] for n in range(12)]
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    batch["stems"][:, :, 1] *= 0.5  # so that the sides differ
    mixed = data.mix(batch)
    straight = (mixed == batch["stems"]).flatten(1).all(1)
    swapped = (mixed == batch["stems"].flip(2)).flatten(1).all(1)
    assert (straight ^ swapped).all()
    assert straight.any()
    assert swapped.any()


def test_excerpts_to_validate_on_are_fixed_and_as_many_as_asked(data: MixturesDataModule) -> None:
    excerpts = data.validation_set
    assert len(excerpts) == 3
    for index in range(3):
        track = excerpts[index]
        assert track.stems.shape == (1, 2, 4_000)
        assert torch.equal(track.stems, excerpts[index].stems)
        assert track.sample_rate == 8_000
    with pytest.raises(IndexError, match="excerpt 3 of 3"):
        excerpts[3]
