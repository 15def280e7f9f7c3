"""The line that a run ends with when a signal stopped it: what was saved, how to go on."""

from pathlib import Path

from omegaconf import DictConfig

from frametx.runs.folder import has_own_folder, is_sweep
from frametx.runs.sweeps import describe_rest, job_number
from frametx.training.stopping import Stopped


def describe_stop(stopped: Stopped, cfg: DictConfig) -> str:
    """One line for the terminal.

    Args:
        stopped: what ended the run.
        cfg: of the run, the pipeline, or the job of a sweep.
    """
    folder = Path(cfg.paths.output_dir)
    rest = describe_rest(job_number()) if is_sweep() else ""
    name = "" if has_own_folder(cfg) else f"name={cfg.name} "
    go_on = f"the same command with {name}ckpt_path=last goes on"
    if stopped.note is not None:
        return f"stopped by {stopped.by}: {stopped.note}{rest}"
    if stopped.saved is not None:
        path, steps = stopped.saved
        return f"stopped by {stopped.by} after step {steps}: saved {path}{rest}; {go_on}"
    if any(folder.glob("**/checkpoints/last.ckpt")):
        return f"stopped by {stopped.by}: nothing new was saved{rest}; {go_on}"
    if rest:
        return f"stopped by {stopped.by}: nothing to save yet{rest}; {go_on}"
    return f"stopped by {stopped.by}: nothing to save yet"
