"""A checkpoint's file as plain tensors and values: nothing in it runs, no size in it is believed.

What a file says about itself is compared with what it holds before memory is taken:

    zip (torch)          directory -> sums of entries -> pickle -> outline without numbers -> map
    pickles (old torch)  pickles -> outline without numbers -> read
    .safetensors         header -> map

An outline is the contents with tensors on torch's `meta` device, which have a shape and no memory.
The numbers are mapped into memory, not read: loading them into a network makes the only copy.
"""

import io
import json
import pickletools
import struct
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

MAX_PICKLE_BYTES = 64 << 20  # of everything but the numbers
MAX_OPCODES = 1_000_000  # of pickles: 25,000 tensors with all that training keeps of them
MAX_NOTE_BYTES = 8 << 20  # of the config in a .safetensors
MAX_DEPTH = 64  # of containers in one another
MAX_ENTRIES = 100_000  # of a zip
MAX_DIMENSIONS = 8
MAX_RATIO = 8  # bytes of all tensors to those of the file: some are stored once under two names

_ZIP = b"PK\x03\x04"
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickle of torch's magic number
_GLOBALS = {
    "collections OrderedDict",
    "collections Counter",  # of a scheduler's milestones
    "torch Size",
    "torch device",
    *(f"torch._utils {name}" for name in ("_rebuild_tensor", "_rebuild_tensor_v2")),
    "torch._utils _rebuild_parameter",
    "torch.storage UntypedStorage",
    "torch.storage TypedStorage",
}
_KINDS = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_GLOBALS |= {f"torch {kind}Storage" for kind in (*_KINDS, "ComplexFloat", "ComplexDouble")}
_DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.complex64, torch.complex128),
}
_GLOBALS |= {str(dtype).replace(".", " ") for dtype in _DTYPES}
_PLAIN = (str, int, float, bool, complex, bytes, type(None), torch.dtype, torch.device)
_CONTAINERS = (dict, OrderedDict, Counter, list, tuple, set, torch.Size)

_verified: set[tuple[int, int, int, int]] = set()  # files whose sums were found right


class DamagedError(ValueError):
    """A file is not whole, or no checkpoint at all."""


def read(path: Path, *, numbers: bool = True, also: Iterable[str] = ()) -> Any:
    """The contents of a file that torch or safetensors wrote.

    Args:
        path: of the file.
        numbers: False leaves them unread: tensors then have a shape only. Quick for any size.
        also: further globals that the pickle may name, as `module name`; what they are is up to
            `torch.serialization.safe_globals`.

    Raises:
        OSError: if it cannot be read.
        DamagedError: if it is not whole, or no such file.
        ValueError: if it would run code or take more memory than it holds.
    """
    with path.open("rb") as file:
        head = file.read(max(len(_ZIP), len(_OLD_TORCH)))
    with _one_line(path):
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if head.startswith(_ZIP):
            return _read_zip(path, numbers=numbers, also=set(also))
        if head == _OLD_TORCH:
            return _read_pickles(path, numbers=numbers, also=set(also))
        raise DamagedError(f"{path} is no checkpoint: it does not begin as one")


def check(path: Path, *, also: Iterable[str] = ()) -> None:
    """See that a file of torch is whole, and names no globals but some; see `read`.

    For a file that holds classes besides tensors, for which the caller has stand-ins.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not so.
    """
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
    with _one_line(path):
        if is_zip:
            _checked_zip(path, numbers=True, also=set(also))
        else:
            with path.open("rb") as file:
                _check_pickles(path, file, set(also), count=5)


def is_whole(path: Path) -> bool:
    """Whether everything in a file can be read and has its right sum."""
    try:
        read(path)
    except (ValueError, OSError):
        return False
    return True


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn what readers raise of hostile bytes into one line without their words.

    They raise nearly every kind of exception, and torch advises to load such a file unsafely.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ValueError, OSError, SafetensorError) as error:
        if isinstance(error, OSError) or str(path) in str(error):
            raise
        raise DamagedError(f"{path} is damaged or no checkpoint: {_short(error)}") from error
    except Exception as error:
        raise DamagedError(
            f"{path} is damaged or no checkpoint: its contents cannot be read"
        ) from error


def _short(error: BaseException) -> str:
    if isinstance(error, SafetensorError):
        return "its header does not describe it"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read_zip(path: Path, *, numbers: bool, also: set[str]) -> Any:
    entries = _checked_zip(path, numbers=numbers, also=also)
    outline = torch.load(path, map_location="meta", weights_only=True)
    # what torch takes a storage's size from is the pickle; what it reads is the entry
    sizes = _sizes_by_offset(path, entries)
    _check_tree(path, outline, file_size=path.stat().st_size, sizes=sizes)
    if not numbers:
        return outline
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _checked_zip(path: Path, *, numbers: bool, also: set[str]) -> list[ZipInfo]:
    """The entries of a zip that is whole and whose pickle names nothing but tensors."""
    entries = _checked_directory(path)
    with ZipFile(path) as archive:
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise DamagedError(f"{path} is damaged or no checkpoint: it has no entry data.pkl")
        if pickles[0].file_size > MAX_PICKLE_BYTES:
            raise ValueError(
                f"{path}: refused, because its data.pkl has {pickles[0].file_size} bytes besides "
                "weights"
            )
        _check_sums(path, archive, entries if numbers else pickles)
        _check_pickles(path, io.BytesIO(archive.read(pickles[0])), also, count=1)
    return entries


def _read_pickles(path: Path, *, numbers: bool, also: set[str]) -> Any:
    """The format before torch 1.6: pickles behind one another, then all numbers."""
    with path.open("rb") as file:
        _check_pickles(path, file, also, count=5)
    with torch.serialization.skip_data():
        outline = torch.load(path, map_location="meta", weights_only=True)
    _check_tree(path, outline, file_size=path.stat().st_size, sizes=None)
    return torch.load(path, map_location="cpu", weights_only=True) if numbers else outline


def _read_safetensors(path: Path) -> dict[str, Any]:
    """In the form of a checkpoint."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if not 2 <= size <= min(MAX_PICKLE_BYTES, path.stat().st_size - 8):
        raise DamagedError(f"{path} is damaged or no checkpoint: it has no header")
    with safe_open(path, framework="pt") as file:
        note = (file.metadata() or {}).get("frametx")
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    if note is None:
        return {"state_dict": weights}
    if len(note) > MAX_NOTE_BYTES:
        raise ValueError(f"{path}: refused, because its config has {len(note)} characters")
    stored = {"state_dict": weights, "frametx": json.loads(note)}
    _check_tree(path, stored, file_size=path.stat().st_size, sizes=None)
    return stored


def _checked_directory(path: Path) -> list[ZipInfo]:
    """The entries of a zip as torch writes one: uncompressed, each once, nothing over another.

    Raises:
        DamagedError: if the directory cannot be read.
        ValueError: if it is of another kind.
    """
    file_size = path.stat().st_size
    with path.open("rb") as file:
        if _num_entries(file, file_size) > MAX_ENTRIES:
            raise ValueError(f"{path}: refused, because it has more than {MAX_ENTRIES} entries")
    try:
        with ZipFile(path) as archive:
            entries = archive.infolist()
    except BadZipFile as error:
        raise _no_end(path) from error
    names = Counter(entry.filename for entry in entries)
    roots = {name.partition("/")[0] for name in names}
    if len(roots) != 1 or max(names.values()) > 1:
        raise ValueError(f"{path}: refused, because it is no zip as torch writes one")
    for entry in entries:
        if entry.compress_type != ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError(
                f"{path}: refused, because its entry {entry.filename!r} is compressed; torch "
                "writes checkpoints uncompressed"
            )
    if sum(entry.file_size for entry in entries) > file_size:
        raise DamagedError(f"{path} is damaged: its entries are larger than the file")
    return entries


def _num_entries(file: BinaryIO, file_size: int) -> int:
    """How many entries the end of a zip says it has, before a table of them is made.

    Raises:
        DamagedError: if there is no such end, or the directory leads out of the file.
    """
    end, place = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL")
    end_64 = struct.Struct("<4sQ2H2L4Q")
    file.seek(max(0, file_size - end.size))
    record = file.read(end.size)
    if len(record) < end.size or not record.startswith(b"PK\x05\x06"):
        raise _no_end(file.name)
    *_, count, size, _, _ = end.unpack(record)
    if file_size >= end.size + place.size:
        file.seek(file_size - end.size - place.size)
        signature, _, offset, _ = place.unpack(file.read(place.size))
        if signature == b"PK\x06\x07" and offset + end_64.size <= file_size:
            file.seek(offset)
            record = file.read(end_64.size)
            if record.startswith(b"PK\x06\x06"):
                *_, count, size, _ = end_64.unpack(record)
    if size > file_size:
        raise DamagedError(f"{file.name} is damaged: its directory is larger than the file")
    return max(count, size // 46)  # what an entry takes at least: the count may lie


def _no_end(path: Path | str) -> DamagedError:
    return DamagedError(f"{path} is damaged or no checkpoint: its end is missing or overwritten")


def _check_sums(path: Path, archive: ZipFile, entries: list[ZipInfo]) -> None:
    """Read the entries once and compare their sums, unless this very file was found right before.

    Raises:
        DamagedError: naming the first entry that fails.
    """
    stat = path.stat()
    key = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)
    if key in _verified:
        return
    for entry in entries:
        try:
            with archive.open(entry) as stream:
                while stream.read(1 << 20):
                    pass
        except (BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise DamagedError(
                f"{path} is damaged: its entry {entry.filename!r} does not have the sum that was "
                "stored with it"
            ) from error
    if len(entries) == len(archive.infolist()):
        _verified.add(key)


def _sizes_by_offset(path: Path, entries: list[ZipInfo]) -> dict[int, int]:
    """Sizes of the entries with numbers, by where in the file they begin."""
    header = struct.Struct("<26xHH")
    sizes: dict[int, int] = {}
    with path.open("rb") as file:
        for entry in entries:
            if entry.filename.split("/")[1:2] == ["data"]:
                file.seek(entry.header_offset)
                name_bytes, extra_bytes = header.unpack(file.read(header.size))
                begin = entry.header_offset + header.size + name_bytes + extra_bytes
                sizes[begin] = entry.file_size
    return sizes


def _check_pickles(path: Path, file: BinaryIO, also: set[str], *, count: int) -> None:
    """Walk through pickles without running them.

    Raises:
        ValueError: if they name anything but tensors and containers, or are too long.
    """
    num_opcodes = 0
    for _ in range(count):
        for opcode, argument, _ in pickletools.genops(file):
            num_opcodes += 1
            if num_opcodes > MAX_OPCODES:
                raise ValueError(f"{path}: refused, because it holds too much besides weights")
            named = opcode.name == "GLOBAL"
            if named and argument not in _GLOBALS and argument not in also:
                raise ValueError(
                    f"{path}: refused, because it holds code besides weights "
                    f"({str(argument)[:80]!r}); only checkpoints of plain tensors are loaded"
                )
            if opcode.name in ("NEWOBJ", "EMPTY_SET", "INST", "OBJ", "STACK_GLOBAL"):
                raise ValueError(
                    f"{path}: refused, because it holds objects besides weights; only checkpoints "
                    "of plain tensors are loaded"
                )


def _check_tree(
    path: Path, stored: Any, *, file_size: int, sizes: Mapping[int, int] | None
) -> None:
    """Refuse contents that are not plain, or that would not fit into the file they come from.

    Args:
        path: for messages.
        stored: the outline, or the contents.
        file_size: bytes.
        sizes: of storages by their place in the file, where these are known.

    Raises:
        ValueError: naming what is wrong.
    """
    heights: dict[int, int] = {}
    is_open: set[int] = set()
    num_bytes = 0

    def height_of(value: Any, depth: int) -> int:
        nonlocal num_bytes
        if isinstance(value, Tensor):
            _check_tensor(path, value, file_size=file_size, sizes=sizes)
            num_bytes += value.numel() * value.element_size()
            if num_bytes > MAX_RATIO * file_size:
                raise ValueError(
                    f"{path}: refused, because its weights are the same few numbers many times"
                )
            return 0
        if type(value) not in _CONTAINERS:
            if isinstance(value, _PLAIN) or type(value).__name__ == "StorageType":
                return 0
            raise ValueError(f"{path}: refused, because it holds a {type(value).__name__}")
        height = heights.get(id(value), 0)
        if depth + height > MAX_DEPTH or id(value) in is_open:
            raise ValueError(
                f"{path}: refused, because its values lie more than {MAX_DEPTH} deep in one another"
            )
        if id(value) in heights:
            return height
        if getattr(value, "__dict__", {}).keys() - {"_metadata"}:
            raise ValueError(f"{path}: refused, because it holds a dict with attributes")
        is_open.add(id(value))
        children = (*value.keys(), *value.values()) if isinstance(value, dict) else value
        height = 1 + max((height_of(child, depth + 1) for child in children), default=0)
        is_open.remove(id(value))
        heights[id(value)] = height
        return height

    height_of(stored, 0)


def _check_tensor(
    path: Path, value: Tensor, *, file_size: int, sizes: Mapping[int, int] | None
) -> None:
    """Refuse a tensor that is not as large as what is stored of it.

    Raises:
        ValueError: if it is sparse, quantised, of a strange type, or spread over few numbers.
    """
    is_plain = (
        type(value) in (Tensor, nn.Parameter)
        and value.layout == torch.strided
        and value.dtype in _DTYPES
        and value.dim() <= MAX_DIMENSIONS
        and not (value.is_quantized or value.is_conj() or value.is_neg())
    )
    if not is_plain:
        raise ValueError(f"{path}: refused, because it holds a tensor that is not plain")
    storage = value.untyped_storage()
    num_bytes = value.numel() * value.element_size()
    if num_bytes > storage.nbytes() or storage.nbytes() > file_size:
        raise ValueError(
            f"{path}: refused, because it holds a tensor of shape {tuple(value.shape)} without as "
            "many numbers"
        )
    if sizes is not None and storage.nbytes():
        stored_bytes = sizes.get(getattr(storage, "_checkpoint_offset", -1))
        if stored_bytes != storage.nbytes():
            raise ValueError(
                f"{path}: refused, because it holds a tensor of {storage.nbytes()} bytes where "
                f"{stored_bytes} are stored"
            )
