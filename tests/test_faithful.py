from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frametx import legacy
from frametx.audio.stft import Stft
from frametx.execution import Execution
from frametx.faithful import Answer, OriginalProgram
from frametx.separator import SpectrogramSeparator

Reference = Callable[[str], dict[str, Any]]


class A(nn.Module):
    """Logits that depend on the place in the crop and on all of its frames."""

    num_bins = 8

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = a

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(x.shape[-1]) / x.shape[-1]
        return self.a * x - 1 + 3 * x.mean(dim=-1, keepdim=True) + 0.5 * place


class B(nn.Module):
    """Logits that depend on the two crops before."""

    num_bins = 8
    num_past_crops = 2
    crop_frames = 16

    def forward(self, x: Tensor) -> Tensor:
        now, mixture, own, mixture2, own2 = x.chunk(5, dim=1)
        logits = 4 * now - 2 * mixture.mean(dim=-1, keepdim=True) + own - 0.5 * mixture2
        return logits + 0.25 * own2.mean(dim=2, keepdim=True)


def separator(network: nn.Module, *, n_fft: int = 16, rate: int = 8_000) -> SpectrogramSeparator:
    return SpectrogramSeparator(
        stft=Stft(n_fft=n_fft, hop_length=n_fft // 2),
        network=network,
        stems=["vocals", "instrumental"],
        complement="vocals",
        sample_rate=rate,
        num_channels=2,
        chunk_frames=16,
        scale="chunk_peak",
        top_bin="zero",
    ).eval()


def program(
    networks: Sequence[nn.Module], *contexts: tuple[int, int], batch: int = 1, n_fft: int = 16
) -> OriginalProgram:
    return OriginalProgram(
        [separator(network, n_fft=n_fft) for network in networks],
        contexts=contexts,
        merges_artifacts=False,
        execution=Execution(device="cpu", batch_size=batch),
    )


def answer(original: OriginalProgram, spectrogram: Tensor, block: int = 1_000) -> Answer:
    frames = iter(spectrogram.split(block, dim=-1))
    parts = list(original.answers(frames, peak=float(spectrogram.abs().max())))
    return Answer(
        torch.cat([part.instrumental for part in parts], -1),
        torch.cat([part.vocals for part in parts], -1),
    )


def agrees(found: Answer, y: Tensor, v: Tensor) -> None:
    torch.testing.assert_close(found.instrumental, y, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.vocals, v, atol=1e-5, rtol=0)


@pytest.mark.parametrize("block", [1, 7, 16, 1_000])
@pytest.mark.parametrize("name", ["crop16_pad0_bs1", "crop16_pad4_bs1", "crop16_pad4_bs3"])
def test_the_ensemble_gives_the_originals_numbers(
    reference: Reference, name: str, block: int
) -> None:
    fixture = reference("min_ensemble")
    case = fixture["cases"][name]
    networks = [A(2), B(), A(3)] if case["pad"] == 0 else [A(2), A(3)]
    context = (case["crop"], case["pad"])
    for network, y, v in zip(networks, case["y_specs"], case["v_specs"], strict=True):
        agrees(answer(program([network], context), fixture["X"], block), y, v)
    together = program(networks, context, batch=case["batch"])
    agrees(answer(together, fixture["X"], block), case["y"], case["v"])


def test_a_song_of_whole_crops_and_several_contexts_too(reference: Reference) -> None:
    fixture = reference("min_ensemble")
    whole = fixture["cases"]["exact_multiple"]["y"]
    found = answer(program([A(2)], (16, 0)), fixture["X"][..., :48])
    torch.testing.assert_close(found.instrumental, whole, atol=1e-5, rtol=0)
    case = fixture["cases"]["tta"]
    contexts = zip(case["cropsizes"], case["paddings"], strict=True)
    agrees(answer(program([A(2)], *contexts), fixture["X"]), case["y"], case["v"])


@pytest.mark.parametrize(
    ("name", "pipeline"), [("v1_thin", "v1_thin_pipeline"), ("v2b", "v2b_pipeline")]
)
def test_a_network_gives_the_originals_numbers(
    reference: Reference, name: str, pipeline: str
) -> None:
    case = reference(pipeline)
    network = legacy.build(reference(name)["state_dict"])
    context = (case["cropsize"], case["padding"])
    original = program([network], context, batch=case["batchsize"], n_fft=case["n_fft"])
    tolerance = {"v1_thin": 5e-5, "v2b": 1e-4}[name] * float(case["X"].abs().max())
    found = answer(original, case["X"], 11)
    torch.testing.assert_close(found.instrumental, case["y_spec"], atol=tolerance, rtol=0)
    torch.testing.assert_close(found.vocals, case["v_spec"], atol=tolerance, rtol=0)
    if "tta_cropsizes" in case:
        contexts = zip(case["tta_cropsizes"], case["tta_paddings"], strict=True)
    else:  # this one had crops without padding
        contexts = ((crop, 0) for crop in case["tta_paddings"])
    found = answer(program([network], *contexts, n_fft=case["n_fft"]), case["X"])
    masked = case["tta_mask"] * case["X"]
    torch.testing.assert_close(found.instrumental, masked, atol=tolerance, rtol=0)
