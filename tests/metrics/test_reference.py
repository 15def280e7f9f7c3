"""References: laws of the mixture, the ideal ratio mask and the best mask as estimates."""

import pytest
import torch
from torch import Tensor

from frametx.metrics.reference import REFERENCES, Reference, best_mask, is_reference, ratio_mask
from frametx.metrics.sdr import usdr


def stems(seed: int, *, num_stems: int = 2) -> Tensor:
    """Noises of other colours that come and go, in stereo."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_stems, 2, 20_000, generator=generator)
    smooth = torch.nn.functional.avg_pool1d(noise[0], 9, 1, 4)
    time = torch.arange(20_000) / 20_000
    noise[0] = smooth * (1 + torch.sin(20 * time))
    return noise


@pytest.mark.parametrize("seed", range(3))
def test_the_best_mask_beats_the_ratio_mask_which_beats_the_mixture(seed: int) -> None:
    true = stems(seed)
    best, ratio, nothing = (
        usdr(Reference(f"reference:{name}").estimates(true), true)
        for name in ("best_mask", "ratio_mask", "mixture")
    )
    assert (best > ratio).all()
    assert (ratio > nothing).all()


def test_the_mixture_is_the_estimate_of_every_stem() -> None:
    true = stems(0, num_stems=3)
    estimates = Reference("reference:mixture", ("a", "b", "c")).estimates(true)
    assert all(torch.equal(estimate, true.sum(dim=0)) for estimate in estimates)


@pytest.mark.parametrize("masked", [ratio_mask, best_mask])
def test_two_masks_sum_to_the_mixture_and_find_stems_that_do_not_overlap(masked) -> None:
    true = stems(1)
    assert torch.allclose(masked(true).sum(dim=0), true.sum(dim=0), atol=1e-5)
    apart = torch.zeros(2, 2, 20_000)  # further apart than a window of 4096 samples is long
    apart[0, :, :6_000] = true[0, :, :6_000]
    apart[1, :, 12_000:] = true[1, :, 12_000:]
    assert torch.allclose(masked(apart), apart, atol=1e-5)


def test_a_silent_mixture_gives_silence() -> None:
    for name in REFERENCES:
        assert Reference(name).estimates(torch.zeros(2, 1, 5_000)).abs().max() == 0


def test_an_unknown_reference_is_refused_and_a_path_is_none() -> None:
    with pytest.raises(ValueError, match=r"reference:mask: no reference .*reference:best_mask"):
        Reference("reference:mask")
    assert is_reference("reference:mask")
    assert not is_reference("reference.ckpt")
    assert not is_reference(["reference:mixture"])
