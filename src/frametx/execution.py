"""On what, how precisely and how much at once a separator runs; and what happens when memory ends.

Out of memory is no end: the batch is halved until it is one chunk, then the chunk is cut into
overlapping pieces, and so it stays for the rest of the run. What was changed is said once.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frametx.audio.chunking import OverlapAdder, Splitter, hop_samples
from frametx.audio.stem_order import ChunkOrder
from frametx.separator import has_ordered_stems

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PIECE_OVERLAP = 0.25  # of the pieces of a chunk that is too long for the memory
SHORTEST_PIECE = 4_096  # samples; below that the network is simply too large for the device


class Execution:
    """Runs a separator over a batch, within the device's memory.

    Args:
        device: of the separator.
        batch_size: chunks at once, until memory says otherwise.
        precision: of the network; the STFT, masks and waveforms stay in 32 bits.
        note: is told what was changed, in words.

    Raises:
        ValueError: if the batch size is below 1 or there is no such precision.
    """

    def __init__(
        self,
        *,
        device: torch.device | str,
        batch_size: int = 1,
        precision: Precision = "fp32",
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size ({batch_size}) must be at least 1")
        if precision not in DTYPES:
            raise ValueError(f"precision={precision} must be one of {', '.join(DTYPES)}")
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.precision = precision
        self.num_pieces = 1  # that a chunk is cut into
        self._note = note

    def __call__(
        self, separator: Callable[[Tensor], Tensor], mixtures: Float[Tensor, "B C L"]
    ) -> Float[Tensor, "B S C L"]:
        """Estimates on the CPU in 32 bits, as many mixtures at once as fit.

        Raises:
            torch.OutOfMemoryError: if not even a short piece of one mixture fits.
        """
        done: list[Tensor] = []
        at = 0
        while at < len(mixtures):
            batch = mixtures[at : at + self.batch_size]
            try:
                done.append(self._run(separator, batch))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                shrunk = self._shrink(len(batch), mixtures.shape[-1])
                if shrunk is None:
                    raise torch.OutOfMemoryError(
                        f"out of memory on {self.device} even for "
                        f"{mixtures.shape[-1] // self.num_pieces} samples at once: this model "
                        "needs a device with more memory, or device=cpu"
                    ) from error
                self._note(shrunk)
                continue
            at += len(batch)
        return torch.cat(done)

    def whole(
        self, separator: Callable[[Tensor], Tensor], mixtures: Float[Tensor, "B C L"]
    ) -> Float[Tensor, "B S C L"]:
        """The same for a separator that remembers what it was given: one call, nothing is cut.

        Raises:
            torch.OutOfMemoryError: if it does not fit.
        """
        try:
            return self._at_once(separator, mixtures)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise torch.OutOfMemoryError(
                f"out of memory on {self.device}: this model takes its chunks one after the other "
                "and whole: lower chunk_seconds (or original.crop_frames), or use device=cpu"
            ) from error

    def _run(self, separator: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        if self.num_pieces == 1:
            return self._at_once(separator, batch)
        return torch.stack([self._in_pieces(separator, mixture) for mixture in batch])

    def _in_pieces(
        self, separator: Callable[[Tensor], Tensor], mixture: Float[Tensor, "C L"]
    ) -> Float[Tensor, "S C L"]:
        length = mixture.shape[-1]
        piece = -(-length // self.num_pieces)
        hop = hop_samples(piece, PIECE_OVERLAP)
        splitter = Splitter(chunk_samples=piece, hop=hop)
        adder = OverlapAdder(chunk_samples=piece, hop=hop)
        stem_order = None
        if not has_ordered_stems(separator):
            stem_order = ChunkOrder(hop=hop, num_channels=mixture.shape[0])
        parts: list[Tensor] = []
        for chunk in [*splitter.push(mixture), *splitter.finish()]:
            estimate = self._at_once(separator, chunk.samples[None])[0]
            if stem_order is not None:
                estimate = stem_order(estimate, chunk.num_settled)
            parts.append(adder.add(estimate, chunk.num_settled))
        return torch.cat([*parts, adder.finish()], dim=-1)[..., :length]

    def _at_once(self, separator: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        try:
            with torch.inference_mode(), self._autocast():
                return separator(batch.to(self.device)).float().cpu()
        except Exception as error:
            if not is_compilers(error) or not stop_compiling(separator):
                raise
            self._note(
                f"torch.compile cannot compile this network ({type(error).__name__}): it runs as "
                "it is from here on"
            )
            return self._at_once(separator, batch)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])

    def _shrink(self, num_mixtures: int, length: int) -> str | None:
        """Ask for less from now on; says what, or None if there is nothing left to give up."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if num_mixtures > 1:
            self.batch_size = num_mixtures // 2
            return f"out of memory on {self.device}: batch_size is {self.batch_size} from here on"
        if length // (2 * self.num_pieces) < SHORTEST_PIECE:
            return None
        self.num_pieces *= 2
        return (
            f"out of memory on {self.device}: chunks are cut into {self.num_pieces} from here on, "
            "which costs a little quality (or lower chunk_seconds)"
        )


def is_compilers(error: BaseException) -> bool:
    """Whether an error comes out of torch.compile itself."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def stop_compiling(separator: object) -> bool:
    """Let what was compiled with `Module.compile` run as it is; whether there was any."""
    modules = separator.modules() if isinstance(separator, nn.Module) else ()
    compiled = [module for module in modules if module._compiled_call_impl is not None]
    for module in compiled:
        module._compiled_call_impl = None
    return bool(compiled)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory has ended, on any device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in said or "not enough memory" in said or "can't allocate memory" in said
    )


def choose_device(name: str) -> torch.device:
    """`auto` is the first of cuda, mps and cpu that is there.

    Raises:
        ValueError: if there is no such device.
    """
    is_there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in is_there.items() if there))
    kind, _, index = name.partition(":")
    if kind not in is_there or (index and not index.isdigit()):
        raise ValueError(f"device={name} must be auto, cpu, cuda, cuda:0, cuda:1 ... or mps")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if not is_there[kind] or int(index or 0) >= count:
        raise ValueError(f"device={name} is not there: use device=auto or device=cpu")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> Precision:
    """`auto` is fp32, and bf16 on a GPU that computes in it; what a device cannot do is refused.

    Raises:
        ValueError: if there is no such precision, or the device lacks it.
    """
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        return "bf16" if has_bf16 else "fp32"
    if name not in DTYPES:
        raise ValueError(f"precision={name} must be auto, {', '.join(DTYPES)}")
    if name == "bf16" and device.type == "cuda" and not has_bf16:
        raise ValueError(f"precision=bf16: {device} does not compute in it; use fp32 or fp16")
    return cast(Precision, name)


def device_of(separator: object) -> torch.device:
    """Where the separator's weights lie; the CPU if it has none."""
    assert isinstance(separator, nn.Module)
    return next((weight.device for weight in separator.parameters()), torch.device("cpu"))
