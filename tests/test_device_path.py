"""No tensor of the CPU in what runs on a device, found without one.

`Pretended` tensors say that they lie on cuda:0 and compute on the CPU; whatever a GPU would refuse
to mix with them raises. torch's own FakeTensorMode does not do: it has no values, for which the
inverse STFT asks.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from frametx.audio.stft import Stft
from frametx.config import conf_dir
from frametx.data import augment
from frametx.data.augment import Transform
from frametx.data.voxaug import Voxaug
from frametx.execution import Execution
from frametx.losses.vocal_bands import watch_separator
from frametx.streaming import separate_blocks

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class Pretended(Tensor):
    """A tensor that says it is on cuda:0; `here` has its values."""

    here: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Pretended":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=CUDA,
        )
        made.here = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


class PretendedGpu(TorchDispatchMode):
    """Makes what is created on, or moved to, cuda a `Pretended`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


class PretendedCopies(TorchFunctionMode):
    """Moves to the device what torch copies there without any operation that could be seen."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu").type == "cuda":
            return Pretended(func(*args, **kwargs | {"device": "cpu"}))
        if func is Tensor.__getitem__ and isinstance(args[0], Pretended):
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            return func(
                args[0],
                tuple(Pretended(torch.tensor(p)) if isinstance(p, list) else p for p in places),
            )
        return func(*args, **kwargs)


def dispatched(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on the CPU, refused where its tensors lie on two devices."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    is_there = any(isinstance(tensor, Pretended) for tensor in tensors)
    here = [t for t in tensors if not isinstance(t, Pretended) and t.dim()]
    if is_there and here and func not in COPIES and func not in INDEXING:
        raise RuntimeError(f"{func}: tensors on cuda:0 and on the CPU")
    wanted = kwargs.get("device")
    kind = None if wanted is None else torch.device(wanted).type
    given = tree_map(plain, (args, kwargs))
    if kind == "cuda":
        given[1]["device"] = "cpu"
    found = func(*given[0], **given[1])
    if func is aten.copy_.default:
        is_there = isinstance(args[0], Pretended)
    if kind == "cpu" or not (is_there or kind == "cuda"):
        return found
    found = tree_map(pretended, found)
    return return_and_correct_aliasing(func, args, kwargs, found) if is_there else found


def plain(value: Any) -> Any:
    return value.here if isinstance(value, Pretended) else value


def pretended(value: Any) -> Any:
    is_here = isinstance(value, Tensor) and not isinstance(value, Pretended)
    return Pretended(value) if is_here else value


def moved(module: nn.Module) -> nn.Module:
    """Parameters and buffers on the pretended device, as `module.to("cuda")` puts them."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(Pretended(weight.data), requires_grad=False)
        for name, values in part._buffers.items():
            if values is not None:
                part._buffers[name] = Pretended(values)
    return module


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Without the fused kernels of a device, which are not there."""
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    return (scores if attn_mask is None else scores + attn_mask).softmax(-1) @ v


LSTM_ON_THE_CPU = nn.LSTM.forward


def lstm(self: nn.LSTM, x: Tensor, state: Any = None) -> Any:
    """On the CPU, if all lies on the device: the kernel of a device is not there."""
    assert all(isinstance(t, Pretended) for t in (x, *self.parameters()))
    layer = nn.LSTM(
        self.input_size,
        self.hidden_size,
        self.num_layers,
        batch_first=self.batch_first,
        bidirectional=self.bidirectional,
    )
    layer.load_state_dict({name: plain(weight) for name, weight in self.named_parameters()})
    return tree_map(pretended, LSTM_ON_THE_CPU(layer, plain(x)))


@contextmanager
def a_pretended_gpu() -> Iterator[None]:
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        torch._C._ensureCUDADeviceGuardSet()  # one that does nothing where there is no device
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.backends.cudnn, "enabled", False)  # its kernels are not there
        patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        patch.setattr(Tensor, "pin_memory", lambda self: self)
        # a view that only says that it is conjugated: the saying is lost in the wrapper
        patch.setattr(Tensor, "conj", Tensor.conj_physical)
        patch.setattr(F, "scaled_dot_product_attention", attention)
        patch.setattr(nn.LSTM, "forward", lstm)
        stack.enter_context(torch.no_grad())
        stack.enter_context(PretendedGpu())
        stack.enter_context(PretendedCopies())
        yield


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", ["paths.output_dir=unused", *overrides])


def test_a_tensor_that_was_left_on_the_cpu_is_found() -> None:
    with a_pretended_gpu():
        there = Pretended(noise(4))
        with pytest.raises(RuntimeError, match="on cuda:0 and on the CPU"):
            torch.add(there, noise(4))
        assert (there + noise(4).to("cuda")).device == CUDA
        assert torch.arange(3, device="cuda").device == CUDA
        assert (there.cpu() + noise(4)).device.type == "cpu"


def test_a_transform_that_stayed_on_the_cpu_serves_waveforms_of_a_device() -> None:
    stft, waveform = Stft(n_fft=64, hop_length=16), noise(2, 500)
    expected = stft.inverse(stft(waveform), length=500)
    with a_pretended_gpu():
        given = stft.inverse(stft(Pretended(waveform)), length=500)
        assert given.device == CUDA
        assert torch.equal(plain(given), expected)


RATE = 16_000
ROOMS = augment.SyntheticRooms(sample_rate=RATE, decay_seconds=(0.05, 0.1))
TRANSFORMS: list[Transform] = [
    augment.Bell(sample_rate=RATE, frequency_hz=(100, 4_000), gain_db=(-9, 9), probability=1),
    augment.ChannelSwap(probability=1),
    augment.CodecRoughness(
        sample_rate=RATE, signal_to_noise_db=(10, 20), limit_hz=(3_000, 7_000), probability=1
    ),
    augment.Compressor(sample_rate=RATE, threshold_db=(-40, -20), ratio=(2, 8), probability=1),
    augment.Distortion(drive_db=(0, 20), probability=1),
    augment.DynamicRange(threshold=(0.1, 0.4), gain=(0.1, 0.5), probability=1),
    augment.FrequencyMask(max_share=0.3, probability=1),
    augment.Gain(min_db=-9, max_db=3, probability=1),
    augment.HighPass(sample_rate=RATE, cutoff_hz=(50, 500), probability=1),
    augment.LowPass(sample_rate=RATE, cutoff_hz=(2_000, 7_000), probability=1),
    augment.MultiplicativeNoise(deviation=(0.1, 0.3), probability=1),
    augment.NoiseGate(sample_rate=RATE, threshold_db=(-40, -20), ratio=(2, 8), probability=1),
    augment.Pan(max_position=0.8, probability=1),
    augment.PhaseNoise(strength=(0.1, 0.5), probability=1),
    augment.PitchShift(max_semitones=3, probability=1),
    augment.PolarityFlip(probability=1),
    augment.Resampling(sample_rate=RATE, lower_rates=(8_000, 11_025), probability=1),
    augment.Reverb(rooms=ROOMS, wet_db=(-20, -6), probability=1),
    augment.Shelf(
        side="low", sample_rate=RATE, frequency_hz=(100, 400), gain_db=(-9, 9), probability=1
    ),
    augment.SilentSide(probability=1),
    augment.SmoothEqualiser(lowest=(0.5, 0.9), highest=(1.1, 1.5), probability=1),
    augment.StereoWidth(width=(0, 2), probability=1),
    augment.TimeMask(max_share=0.3, probability=1),
    augment.TimeStretch(rate=(0.8, 1.25), probability=1),
]
PRESETS = sorted(path.stem for path in (conf_dir() / "augment").glob("*.yaml"))
NETWORKS = sorted(path.stem for path in (conf_dir() / "model").glob("*_tiny.yaml"))
LOSSES = sorted(path.stem for path in (conf_dir() / "loss").glob("*.yaml"))


def test_every_transform_is_among_those_tried() -> None:
    classes = [getattr(augment, name) for name in augment.__all__]
    all_of_them = {made for made in classes if hasattr(made, "apply") and hasattr(made, "draw")}
    assert {type(one) for one in TRANSFORMS} == all_of_them - {augment.Transform, augment.Drawn}


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda one: type(one).__name__)
def test_a_transform_gives_on_a_device_what_it_gives_on_the_cpu(transform: Transform) -> None:
    waveform, samples = noise(3, 2, 6_000), torch.arange(3)
    drawn = augment.Drawn([transform], samples, seed=0, stream="vocals")
    expected = drawn.apply(waveform)
    with a_pretended_gpu():
        given = drawn.apply(Pretended(waveform))
    assert given.device == CUDA
    assert torch.equal(plain(given), expected)


@pytest.mark.parametrize("name", PRESETS)
def test_an_augmentation_preset_runs_on_a_device(name: str) -> None:
    voxaug = instantiate(composed(f"augment={name}", "audio=44k1_stereo").augment)
    assert isinstance(voxaug, Voxaug)
    lengths = {part.name: voxaug.input_samples(part.stem, 6_000) for part in voxaug.parts}
    parts = {part: noise(8, 2, length) for part, length in lengths.items()}
    samples = {"sample": torch.arange(8)}
    expected = voxaug(samples | parts)
    with a_pretended_gpu():
        given = voxaug(samples | {name: Pretended(part) for name, part in parts.items()})
    assert given.device == CUDA
    assert torch.equal(plain(given), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_separates_on_a_device_and_streams_to_the_cpu(name: str) -> None:
    cfg = composed(
        *(f"model={name}", "audio=16k_mono"),
        *("audio.n_fft=512", "audio.hop_length=256", "audio.chunk_frames=17"),
    )
    separator: Any = instantiate(cfg.separator).eval()
    with a_pretended_gpu():
        separator = moved(separator)
        mixture = noise(2, separator.num_channels, 17 * 256)
        assert separator(Pretended(mixture)).device == CUDA
        blocks = separate_blocks(
            separator,
            noise(separator.num_channels, 6_000).split(5_000, 1),
            sample_rate=separator.sample_rate,
            overlap=0.25,
            execution=OnTheDevice(device=CUDA),
            chunk_samples=16 * 256,
        )
        assert {block.device.type for block in blocks} == {"cpu"}


class OnTheDevice(Execution):
    """Without inference mode, in which wrapped tensors have no views."""

    def _at_once(self, separator: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        return separator(batch.to(self.device)).float().cpu()


class HearsBands(nn.Module):
    """A separator with a second output, for the losses that read it."""

    stems = ("vocals", "instrumental")
    complement = "instrumental"
    num_bins = 32

    def __init__(self) -> None:
        super().__init__()
        self.stft = Stft(n_fft=62, hop_length=31)

    def keep_vocal_bands(self) -> None: ...

    def take_vocal_bands(self) -> Tensor:
        return Pretended(noise(2, 1, 16, self.stft.num_frames(9_000)))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_compares_on_a_device(name: str) -> None:
    loss = instantiate(composed(f"loss={name}", "audio=16k_mono").loss)
    watch_separator(loss, HearsBands())
    with a_pretended_gpu():
        estimates, stems = Pretended(noise(2, 2, 1, 9_000)), Pretended(noise(2, 2, 1, 9_000) ** 2)
        assert moved(loss)(estimates, stems).device == CUDA
