from pathlib import Path

import pytest
import torch
from torch import Tensor

from frametx.data.drawn_mixtures import DrawnMixtures
from frametx.data.synthetic import write_synthetic_libraries

RATE = 8_000
STEMS = ("vocals", "drums", "bass")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("libraries")
    write_synthetic_libraries(root, seconds=2, num_files=2, sample_rate=RATE, seed=0, stems=STEMS)
    return root


def draw(root: Path, stems: tuple[str, ...] = STEMS, **options) -> DrawnMixtures:
    settings = {
        "cache_dir": root / "cache",
        "count": 3,
        "seconds": 0.5,
        "seed": 0,
        "sample_rate": RATE,
        "num_channels": 2,
    }
    return DrawnMixtures.of_folder(root, stems=stems, **(settings | options))


def level_db(stem: Tensor, others: Tensor) -> float:
    return float(10 * (stem.square().mean() / others.square().mean()).log10())


def test_the_first_stem_is_as_loud_as_all_others_together(root: Path) -> None:
    for mixture in draw(root):
        assert level_db(mixture.stems[0], mixture.stems[1:].sum(dim=0)) == pytest.approx(
            0, abs=1e-3
        )


def test_stems_stand_at_their_levels_above_the_sum_of_those_that_have_none(root: Path) -> None:
    free = draw(root, level_db={})
    levelled = draw(root, level_db={"drums": 6.0, "bass": -3.0})
    for number in range(3):
        vocals, drums, bass = levelled[number].stems
        assert level_db(drums, vocals) == pytest.approx(6, abs=1e-3)
        assert level_db(bass, vocals) == pytest.approx(-3, abs=1e-3)
        assert torch.equal(vocals, free[number].stems[0])
    for mixture in draw(root, level_db={"drums": 6.0}):
        vocals, drums, bass = mixture.stems
        assert level_db(drums, vocals + bass) == pytest.approx(6, abs=1e-3)


def test_the_order_of_the_stems_does_not_change_which_excerpts_meet(root: Path) -> None:
    turned = ("bass", "vocals", "drums")
    mixtures, others = draw(root, level_db={}), draw(root, turned, level_db={})
    for number in range(3):
        assert torch.equal(mixtures[number].stems, others[number].stems[[1, 2, 0]])


@pytest.mark.parametrize("level_db", [{"other": 0.0}, {"vocals": 0.0, "drums": 0.0, "bass": 0.0}])
def test_a_level_above_nothing_is_refused(root: Path, level_db: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must name some of the stems .* leave out one at least"):
        draw(root, level_db=level_db)


def test_a_missing_library_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"validation other: .*other does not exist"):
        draw(root, ("vocals", "other"))
