from typing import Any, cast

import pytest

from frametx.training.tracks import TracksDataModule

UNUSED = cast(Any, None)


@pytest.mark.parametrize("stems", [["vocals"], [], ["bass", "bass"]])
def test_songs_of_one_stem_are_refused_because_they_are_their_own_mixtures(
    stems: list[str],
) -> None:
    with pytest.raises(ValueError, match="must be two at least, each of another name"):
        TracksDataModule(
            root="songs",
            stems=stems,
            held_out=0.1,
            mix_songs=0.0,
            test=None,
            transforms=UNUSED,
            sample_rate=8_000,
            num_channels=1,
            seed=0,
            cache_dir="cache",
            decode_once=False,
            curriculum=UNUSED,
            stft=UNUSED,
            num_workers=0,
            repeat_first_step=False,
        )
