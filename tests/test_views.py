import pytest
import torch
from torch import Tensor, nn

from frametx.audio.stft import Stft
from frametx.execution import Execution
from frametx.separator import SpectrogramSeparator
from frametx.views import ORIGINAL_CONTEXTS, View, separate_view, views

RATE = 8_000


class Sided(nn.Module):
    """Not invariant to anything: hears left and right, the sign and the place in the chunk."""

    stems = ("vocals", "instrumental")
    sample_rate = RATE
    num_channels = 2
    chunk_samples = 64

    def forward(self, mixture: Tensor) -> Tensor:
        place = torch.linspace(0, 1, mixture.shape[-1])
        gains = torch.tensor([[0.2], [0.7]]) + 0.2 * place
        vocals = gains * mixture.clamp_min(0)
        return torch.stack([vocals, mixture - vocals], dim=1)


class Fixed(Sided):
    """Invariant to all."""

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.stack([0.25 * mixture, 0.75 * mixture], dim=1)


def noise(channels: int, length: int) -> Tensor:
    return torch.randn(channels, length, generator=torch.Generator().manual_seed(length))


def separated(separator: nn.Module, mixture: Tensor, view: View) -> Tensor:
    stems = separate_view(
        separator,  # pyright: ignore[reportArgumentType]
        mixture.split(37, dim=1),
        view,
        sample_rate=RATE,
        execution=Execution(device="cpu"),
        remainder=None,
    )
    return torch.cat(list(stems), dim=2)


def all_views(separator: nn.Module, **options: object) -> list[View]:
    chosen: dict[str, object] = {
        "chunk_samples": None,
        "overlap": 0.25,
        "swap": True,
        "polarity": True,
        "shifts": 2,
        "contexts": [],
    }
    return views(separator, **(chosen | options))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
@pytest.mark.parametrize("length", [1, 50, 64, 65, 300])
def test_every_view_is_exact_for_a_model_that_it_does_not_matter_to(
    channels: int, length: int
) -> None:
    mixture = noise(channels, length)
    found = all_views(Fixed())
    assert len(found) == 5
    for view in found:
        stems = separated(Fixed(), mixture, view)
        assert stems.shape == (2, channels, length)
        torch.testing.assert_close(stems[0], 0.25 * mixture, atol=1e-6, rtol=1e-5)


def test_each_view_is_what_its_name_says() -> None:
    mixture = noise(2, 64)
    plain, swapped, inverted, *delayed = all_views(Sided())
    separator = Sided()
    torch.testing.assert_close(separated(separator, mixture, plain), separator(mixture[None])[0])
    expected = separator(mixture.flip(0)[None])[0].flip(1)
    torch.testing.assert_close(separated(separator, mixture, swapped), expected)
    expected = -separator(-mixture[None])[0]
    torch.testing.assert_close(separated(separator, mixture, inverted), expected)
    assert [view.delay for view in delayed] == [16 / RATE, 32 / RATE]
    padded = torch.cat([torch.zeros(2, 16), mixture], dim=1)
    expected = separated(separator, padded, plain)[:, :, 16:]
    torch.testing.assert_close(separated(separator, mixture, delayed[0]), expected)


def test_contexts_are_counted_in_frames() -> None:
    separator = SpectrogramSeparator(
        stft=Stft(n_fft=64, hop_length=32),
        network=nn.Identity(),
        stems=["vocals", "instrumental"],
        complement="vocals",
        sample_rate=RATE,
        num_channels=1,
        chunk_frames=16,
        scale="none",
        top_bin="copy",
    )
    found = all_views(separator, contexts=ORIGINAL_CONTEXTS, swap=True, polarity=False, shifts=0)
    assert [view.chunk_samples for view in found] == [
        32 * (crop + 2 * padding - 1) for crop, padding in ORIGINAL_CONTEXTS
    ]  # and no swapped view of a mono model
    assert {view.overlap for view in found} == {0.8}
    with pytest.raises(ValueError, match="Fixed has no frames"):
        all_views(Fixed(), contexts=[(4, 4)])
    for pair in ([4], [0, 4], [4, -1]):
        with pytest.raises(ValueError, match="two numbers of frames"):
            all_views(separator, contexts=[pair])
    with pytest.raises(ValueError, match=r"shifts=-1"):
        all_views(separator, shifts=-1)
