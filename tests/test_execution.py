import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed

from frametx.execution import Execution, choose_device, choose_precision, is_out_of_memory

LENGTH = 40_000


class Small:
    """Takes at most so many samples at once."""

    def __init__(self, limit: int, message: str | None = None) -> None:
        self.limit = limit
        self.message = message
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, mixtures: Tensor) -> Tensor:
        self.shapes.append((mixtures.shape[0], mixtures.shape[2]))
        if mixtures.shape[0] * mixtures.shape[2] > self.limit:
            raise (
                torch.OutOfMemoryError("no more")
                if self.message is None
                else RuntimeError(self.message)
            )
        return torch.stack([0.25 * mixtures, 0.75 * mixtures], dim=1)


def noise(count: int, length: int = LENGTH) -> Tensor:
    return torch.randn(count, 2, length, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "message",
    [
        None,
        "MPS backend out of memory (MPS allocated: 1 GB)",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes",
        "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes.",
    ],
)
def test_out_of_memory_halves_the_batch_and_says_so(message: str | None) -> None:
    notes: list[str] = []
    execution = Execution(device="cpu", batch_size=8, note=notes.append)
    separator = Small(2 * LENGTH, message)
    mixtures = noise(8)
    estimates = execution(separator, mixtures)
    torch.testing.assert_close(estimates.sum(dim=1), mixtures)
    assert execution.batch_size == 2
    assert [note.partition(": ")[2] for note in notes] == [
        "batch_size is 4 from here on",
        "batch_size is 2 from here on",
    ]
    separator.shapes.clear()
    execution(separator, mixtures)
    assert separator.shapes == [(2, LENGTH)] * 4  # nothing is tried again


class Swapping(Small):
    """The same, its stems the other way round in every second call that succeeds."""

    ordered_stems = False

    def __call__(self, mixtures: Tensor) -> Tensor:
        estimates = super().__call__(mixtures)
        return estimates.flip(1) if len(self.shapes) % 2 else estimates


def test_pieces_of_stems_without_an_order_are_brought_into_one() -> None:
    mixtures = noise(1)
    execution = Execution(device="cpu")
    swapping = Swapping(LENGTH // 3)
    for _ in range(2):  # an odd number of pieces begins with the other stem the next time
        estimates = execution(swapping, mixtures)[0]
        loud = int(estimates[0].square().sum() < estimates[1].square().sum())
        torch.testing.assert_close(estimates[loud], 0.75 * mixtures[0])
        torch.testing.assert_close(estimates[1 - loud], 0.25 * mixtures[0])
    assert execution.num_pieces == 4


@pytest.mark.parametrize("limit", [LENGTH - 1, LENGTH // 3])
def test_then_the_chunk_is_cut_into_pieces_that_fade_into_each_other(limit: int) -> None:
    notes: list[str] = []
    execution = Execution(device="cpu", batch_size=2, note=notes.append)
    mixtures = noise(2)
    estimates = execution(Small(limit), mixtures)
    assert estimates.shape == (2, 2, 2, LENGTH)
    torch.testing.assert_close(estimates[:, 0], 0.25 * mixtures)
    assert execution.num_pieces == (2 if limit > LENGTH // 2 else 4)
    assert "chunks are cut into" in notes[-1]


def test_a_model_that_fits_in_no_way_ends_with_the_way_out() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="device=cpu"):
        Execution(device="cpu", batch_size=4)(Small(0), noise(4))


def test_a_model_that_must_see_its_chunks_whole_ends_with_the_way_out() -> None:
    execution = Execution(device="cpu")
    mixtures = noise(1)
    assert torch.equal(execution.whole(Small(LENGTH), mixtures).sum(dim=1), mixtures)
    with pytest.raises(torch.OutOfMemoryError, match="lower chunk_seconds"):
        execution.whole(Small(LENGTH - 1), mixtures)


def test_other_errors_are_not_mistaken_for_a_lack_of_memory() -> None:
    assert not is_out_of_memory(ValueError("out of memory"))

    def broken(mixtures: Tensor) -> Tensor:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        Execution(device="cpu")(broken, noise(1, 10))


def test_a_network_that_cannot_be_compiled_runs_as_it_is_and_says_so() -> None:
    class Network(nn.Module):
        def forward(self, mixtures: Tensor) -> Tensor:
            return torch.stack([0.25 * mixtures, 0.75 * mixtures], dim=1)

    def refuse(*_: object, **__: object) -> None:
        raise BackendCompilerFailed(refuse, ValueError("no such kernel"), None)

    notes: list[str] = []
    network, mixtures = Network(), noise(2, 100)
    network.compile(backend=refuse)
    execution = Execution(device="cpu", batch_size=2, note=notes.append)
    assert torch.equal(execution(network, mixtures), network.forward(mixtures))
    assert [note.partition(":")[0] for note in notes] == [
        "torch.compile cannot compile this network (BackendCompilerFailed)"
    ]
    execution(network, mixtures)
    assert len(notes) == 1


def test_half_precision_reaches_the_network_and_not_the_result() -> None:
    seen: list[torch.dtype] = []
    weight = torch.eye(100)

    def network(mixtures: Tensor) -> Tensor:
        answer = mixtures @ weight
        seen.append(answer.dtype)
        return answer[:, None]

    estimates = Execution(device="cpu", precision="bf16")(network, noise(1, 100))
    assert seen == [torch.bfloat16]
    assert estimates.dtype == torch.float32


def test_a_value_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size \(0\) must be at least 1"):
        Execution(device="cpu", batch_size=0)
    with pytest.raises(ValueError, match="precision=fp8"):
        Execution(device="cpu", precision="fp8")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="precision=int8 must be auto"):
        choose_precision("int8", torch.device("cpu"))
    assert choose_precision("auto", torch.device("cpu")) == "fp32"
    assert choose_precision("fp16", torch.device("cpu")) == "fp16"
    assert choose_device("cpu").type == "cpu"
