"""A pipeline: several runs, each from the best weights of the one before."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from frametx.config import composition_message, quoted
from frametx.runs.folder import FINISHED, best_checkpoint, has_own_folder, is_sweep


def run_stages(cfg: DictConfig, run: Callable[[DictConfig], Path | None]) -> None:
    """Run the stages of a pipeline, each from the best weights of the one before.

    A stage has a folder of its own, and leaves a file `finished` in it. With ckpt_path=last stages
    that are finished are passed over, and the one that was interrupted is resumed.

    Args:
        cfg: of the pipeline.
        run: trains by the config of a stage; returns the best checkpoint, None on further devices.

    Raises:
        ValueError: if a stage's config cannot be, before any is run, or the folder holds another
            pipeline.
    """
    folder = folder_of_stages(cfg)
    jobs = [stage_config(cfg, name, place) for name, place in stage_folders(cfg, folder)]
    best: Path | None = None
    for job, (name, place) in zip(jobs, stage_folders(cfg, folder), strict=True):
        mark = place / FINISHED
        if not mark.is_file():
            print(f"stage {name}: {place}", flush=True)
            with as_own_job(job, place):
                with open_dict(job):
                    unfinished = place / "checkpoints" / "last.ckpt"
                    job.ckpt_path = str(unfinished) if unfinished.is_file() else None
                    job.init_from = job.init_from if best is None else str(best)
                if run(job) is not None:
                    mark.touch()
        else:
            print(f"stage {name}: finished before", flush=True)
        best = best_checkpoint(job)


def folder_of_stages(cfg: DictConfig) -> Path:
    """Where the folders of the stages lie: this run's own, or the newest with ckpt_path=last.

    Raises:
        ValueError: if there is nothing to go on with, or something that must not be written over.
    """
    own = Path(cfg.paths.output_dir)
    if cfg.ckpt_path not in (None, "last"):
        raise ValueError(
            f"ckpt_path={cfg.ckpt_path}: a pipeline goes on where it stopped, by ckpt_path=last"
        )
    has_begun = any(place.exists() for _, place in stage_folders(cfg, own))
    if cfg.ckpt_path is None:
        if has_begun:
            raise ValueError(
                f"{own} already holds a pipeline: ckpt_path=last goes on with it, name=... starts "
                "another"
            )
        return own
    if has_begun or is_sweep():
        return own
    if has_own_folder(cfg):
        raise ValueError(
            f"ckpt_path=last: no pipeline under {own} has begun; leave out ckpt_path to start it"
        )
    names = {place.name for _, place in stage_folders(cfg, own)}
    found = [
        path.parent.parent
        for path in Path(cfg.paths.runs_dir).glob("**/last.ckpt")
        if path.parent.parent.name in names
    ]
    if not found:
        raise ValueError(f"ckpt_path=last: no pipeline under {cfg.paths.runs_dir} has begun")
    newest = max(found, key=lambda place: (place / "checkpoints" / "last.ckpt").stat().st_mtime)
    print(f"going on with {newest.parent}", flush=True)
    return newest.parent


def stage_folders(cfg: DictConfig, folder: Path) -> list[tuple[str, Path]]:
    """Name and folder of every stage, in order."""
    return [(str(n), folder / f"{i}_{n}") for i, n in enumerate(cfg.stages, start=1)]


def stage_config(cfg: DictConfig, name: str, place: Path) -> DictConfig:
    """One stage as a run of its own: its overrides, and over them those of the command line.

    Raises:
        ValueError: if it cannot be composed.
    """
    overrides = [
        *(str(text) for text in cfg.stages[name]),
        *HydraConfig.get().overrides.task,
        "stages=null",
        f"stage_of={quoted(place.parent)}",
        f"paths.output_dir={quoted(place)}",
    ]
    try:
        return compose("train", overrides=overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        message = composition_message(error, "train", overrides)
        raise ValueError(f"stages.{name}={list(cfg.stages[name])}: {message}") from error


@contextmanager
def as_own_job(job: DictConfig, place: Path) -> Iterator[None]:
    """Let what asks Hydra for its job see this one: names of groups, commands of more processes."""
    pipeline = HydraConfig.instance().cfg
    with open_dict(job):
        job.hydra.runtime.output_dir = str(place)
    place.mkdir(parents=True, exist_ok=True)
    HydraConfig.instance().set_config(job)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = pipeline
