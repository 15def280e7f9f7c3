from typing import get_args

import pytest
import torch
from torch import Tensor

from frametx.ensemble import (
    Rule,
    check_rule,
    combine_spectrograms,
    combine_waveforms,
    minimised_stem,
    rule_of,
)

RULES: tuple[Rule, ...] = get_args(Rule)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def weights(rule: Rule, count: int) -> list[float] | None:
    return [1.0 + n for n in range(count)] if rule == "weighted" else None


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_members_that_agree_are_left_alone(rule: Rule, count: int) -> None:
    wave, spectrum = noise(2, 50), noise(2, 9, 5, dtype=torch.complex64)
    spectrum[:, 0] = 0
    chosen = weights(rule, count)
    combined = combine_waveforms(wave.expand(count, 2, 50), rule, chosen)
    torch.testing.assert_close(combined, wave)
    combined = combine_spectrograms(spectrum.expand(count, 2, 9, 5), rule, chosen)
    torch.testing.assert_close(combined, spectrum)


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_the_members_does_not_matter(rule: Rule) -> None:
    waves, spectra = noise(3, 2, 50), noise(3, 2, 9, 5, dtype=torch.complex64)
    turned = [2, 0, 1]
    chosen = weights(rule, 3)
    chosen_turned = None if chosen is None else [chosen[n] for n in turned]
    for combine, values in ((combine_waveforms, waves), (combine_spectrograms, spectra)):
        torch.testing.assert_close(
            combine(values[turned], rule, chosen_turned), combine(values, rule, chosen)
        )


def test_each_rule_does_what_its_name_says() -> None:
    waves = torch.tensor([[1.0, -4.0], [-2.0, 0.5], [6.0, 3.0], [-3.0, 2.0]])
    expected = {
        "min": [1.0, 0.5],
        "max": [6.0, -4.0],
        "mean": [0.5, 0.375],
        "median": [-0.5, 1.25],
    }
    for rule, values in expected.items():
        combined = combine_waveforms(waves, rule)  # pyright: ignore[reportArgumentType]
        assert combined.tolist() == values, rule
    assert combine_waveforms(waves, "weighted", [0, 1, 0, 3]).tolist() == [-2.75, 1.625]
    spectra = torch.tensor([[3 + 4j], [0 + 1j], [2 + 0j]])
    sizes = {"min": 1.0, "max": 5.0, "mean": 8 / 3, "median": 2.0}
    phase = spectra.sum(dim=0) / spectra.sum(dim=0).abs()
    for rule, size in sizes.items():
        combined = combine_spectrograms(spectra, rule)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(combined, size * phase)
    mixture = torch.tensor([-2 + 0j])
    combined = combine_spectrograms(spectra, "min", phase_of=mixture)
    torch.testing.assert_close(combined, torch.tensor([-1 + 0j]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("average", "magnitude", None, 2), "ensemble=average must be one of min, max, mean"),
        (("min_vocals", "magnitude", None, 2), "weighted, min_drums, min_other$"),
        (("min", "phase", None, 2), "domain=phase must be one of magnitude, waveform"),
        (("weighted", "magnitude", None, 2), "needs one for each checkpoint"),
        (("mean", "magnitude", [1.0, 2.0], 2), "weights belong to ensemble=weighted"),
        (("weighted", "magnitude", [1.0], 2), "as many as the checkpoints, 2"),
        (("weighted", "magnitude", [1.0, -1.0], 2), "at least 0"),
        (("weighted", "magnitude", [0.0, 0.0], 2), "not all 0"),
    ],
)
def test_an_ensemble_that_makes_no_sense_is_refused(
    arguments: tuple[str, str, list[float] | None, int], message: str
) -> None:
    ensemble, domain, weights, num_members = arguments
    stems = ("drums", "other")
    with pytest.raises(ValueError, match=message):
        check_rule(ensemble, domain, weights, num_members=num_members, stems=stems)


def test_the_minimum_of_a_stem_is_the_mean_of_the_others() -> None:
    stems = ("vocals", "drums", "min")
    assert [rule_of("min_drums", stem) for stem in stems] == ["mean", "min", "mean"]
    assert [rule_of("min", stem) for stem in stems] == ["min"] * 3
    assert (minimised_stem("min_drums"), minimised_stem("min")) == ("drums", None)
