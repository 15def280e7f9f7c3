"""The libraries of a data group as shards for data=litdata: `python -m frametx.shards`."""

from pathlib import Path

import hydra.utils
import torch
from omegaconf import DictConfig

from frametx.config import hydra_main
from frametx.data.files import AudioFile
from frametx.data.library import Library
from frametx.data.progress import progress_bar
from frametx.data.remote import SHARD_LIST
from frametx.data.shards import write_shards
from frametx.printable import printable
from frametx.training.voxaug import VoxaugDataModule


def pack(cfg: DictConfig) -> Path:
    """Write each library of `cfg.data` to a folder of its role below `cfg.output`.

    Raises:
        ValueError: if the data has no libraries, or there is something in the folder already.
    """
    output = Path(str(cfg.output)).expanduser()
    data = hydra.utils.instantiate(cfg.data)
    if not isinstance(data, VoxaugDataModule):
        raise ValueError(
            "shards are made of libraries of single stems: choose data=folders or data=stems, or a "
            f"folder that holds {', '.join(f'{stem}/' for stem in cfg.stems)}"
        )
    for role in data.roots:
        make_empty(output / role, overwrite=cfg.overwrite)
    for role, roots in data.roots.items():
        library = data.rules.open(role, roots)
        for file in library.rejected:
            print(f"{role}: left out: {printable(file.name)} {file.reason}", flush=True)
        songs = write_shards(
            named(library),
            output / role,
            sample_rate=cfg.shard_rate,
            piece_seconds=cfg.piece_seconds,
            chunk_mb=cfg.chunk_mb,
            num_threads=cfg.num_threads,
        )
        seconds, size, total = 0.0, 0, len(library.files)
        with progress_bar(f"packing {role}") as progress:
            for done, song in enumerate(songs, start=1):
                seconds += song.num_samples / song.sample_rate
                size += song.size
                progress(done, total)
        print(f"{role}: {total} files, {seconds / 3600:.2f} h, {size / 1e9:.3f} GB", flush=True)
    stems = ",".join(data.stems)
    print(f"written: {output}; train with data=litdata stems=[{stems}] paths.shards_dir={output}")
    return output


def named(library: Library) -> list[tuple[str, AudioFile]]:
    """The files, each with its name in the shards: its own, after its root's if there are many."""
    roots = {file.root for file in library.files}
    if len(roots) == 1:
        return [(file.name, file) for file in library.files]
    return [
        (f"{file.root:02d}_{Path(file.source.address).name}/{file.name}", file)
        for file in library.files
    ]


def make_empty(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds anything, or delete the shards in it.

    Raises:
        ValueError: if there are shards and they may not be replaced, or there is anything else.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return
    shards = [path for path in folder.iterdir() if is_shard(path)]
    others = [path.name for path in folder.iterdir() if not is_shard(path)]
    if others:
        raise ValueError(f"{folder} holds {others[0]}, which is no shard: choose an empty folder")
    if not overwrite:
        raise ValueError(f"{folder} holds shards already: overwrite=true replaces them")
    for path in sorted(shards, key=lambda path: path.name != SHARD_LIST):  # the list goes first
        path.unlink()


def is_shard(path: Path) -> bool:
    """Whether a file is one that `write_shards` makes."""
    is_chunk = path.name.startswith("chunk-") and path.suffix == ".bin"
    return is_chunk or path.name in (SHARD_LIST, "index.json") or path.name.endswith(".index.json")


@hydra_main("shards")
def main(cfg: DictConfig) -> None:
    """Pack the libraries."""
    torch.set_num_threads(1)
    pack(cfg)


if __name__ == "__main__":
    main()
