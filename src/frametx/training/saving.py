"""How checkpoints reach the disk: whole, or the one before stays."""

import sys
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from frametx.files import save_tensors


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint next to its final name, flushes it to the disk, and renames it.

    Lightning writes to the temporary folder first and moves the file, which on another disk is a
    copy over the checkpoint that it replaces. A checkpoint that cannot be written (a full disk)
    does not end the training: the next one is tried.

    Attributes:
        failed: by path, why the latest state could not be saved there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failed: dict[Path, str] = {}

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: Path | str,
        storage_options: Any = None,
    ) -> None:
        """Save, or print one line that says where there is no room."""
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(checkpoint, path)
        except OSError as error:
            reason = error.strerror or str(error)
            if path not in self.failed:
                print(
                    f"warning: {path} could not be saved: {reason} (the disk of "
                    f"{path.parent.absolute()}); training goes on and the next save tries again",
                    file=sys.stderr,
                    flush=True,
                )
            self.failed[path] = reason
        else:
            self.failed.pop(path, None)
