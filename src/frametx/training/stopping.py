"""SIGTERM and Ctrl-C: finish the step, save, and end; the second Ctrl-C ends at once.

Signals reach a process at any moment, a checkpoint can be written between two steps only, and all
processes of a run must stop at the same one. So a signal is noted (`StopSignals`), the callback
(`StopBetweenSteps`) asks for it behind every step and every validation track, and `LastCheckpoint`
saves before `Stopped` is raised. Where no step is under way there is nothing to wait for.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

MAIN_PROCESS = "FRAMETX_MAIN_PROCESS"
"""Environment variable: the process that started this one for a further device."""
NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Stopped(SystemExit):
    """A run that SIGTERM or Ctrl-C ended: exit code 143 or 130.

    Attributes:
        number: of the signal.
        saved: where the state was saved and after how many steps, for the last line.
        note: another last line.
        is_reported: whether the line was printed.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number
        self.saved: tuple[str, int] | None = None
        self.note: str | None = None
        self.is_reported = False

    @property
    def by(self) -> str:
        """What stopped it."""
        return "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name


class StopSignals:
    """The signals of this process.

    Attributes:
        is_stepping: whether training is under way, which must be stopped between two steps.
        requested: the signal that asked for the end of it.
    """

    def __init__(self) -> None:
        self.is_stepping = False
        self.requested: int | None = None
        self._process = -1

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Catch signals in this block. What is ignored (as by nohup) stays ignored."""
        before = {number: signal.getsignal(number) for number in NUMBERS}
        self.is_stepping, self.requested = False, None
        self._process = os.getpid()
        self.install()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.is_stepping, self.requested, self._process = False, None, -1

    def install(self) -> None:
        """Take the signals, from Lightning too, if this process has asked for them."""
        if self._process != os.getpid():
            return
        for number in NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; or raise where no step is under way, or at the second Ctrl-C.

        Raises:
            Stopped: then.
        """
        if os.getpid() != self._process:  # a reader of audio, which was forked
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if is_child_process():  # the main process decides for all
            if number == signal.SIGTERM and os.environ.get(MAIN_PROCESS) == str(os.getppid()):
                os.kill(os.getppid(), number)
            return
        is_second = self.requested is not None
        if self.is_stepping and not is_second:
            self.requested = number
        elif not is_second or number == signal.SIGINT:
            raise Stopped(number)


STOP = StopSignals()


class StopBetweenSteps(Callback):
    """Ends training where its state can be saved, on all devices alike.

    Attributes:
        stopped: set once all have agreed to stop; `LastCheckpoint` then saves.
    """

    def __init__(self) -> None:
        self.stopped: Stopped | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lightning has put its own handler for SIGTERM in place, which saves nothing."""
        STOP.install()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop before a step, if it was agreed on behind the last one."""
        self._raise()
        STOP.is_stepping = True

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Agree; the step's scores are still logged."""
        self._agree(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As before a step; and count a validation that is repeated as one."""
        self._raise()
        total = cast(Any, trainer).fit_loop.epoch_loop.val_loop.batch_progress.total
        total.ready = total.started = total.completed

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Do not wait for all tracks."""
        if STOP.is_stepping or trainer.world_size > 1:
            self._agree(trainer)
            self._raise()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What follows can be stopped at any moment."""
        STOP.is_stepping = False

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Likewise."""
        STOP.is_stepping = False

    def _agree(self, trainer: L.Trainer) -> None:
        """Take over what the main process was asked for."""
        number = STOP.requested or 0
        if trainer.world_size > 1:
            told = torch.tensor([number], device=trainer.strategy.root_device)
            torch.distributed.broadcast(told, src=0)
            number = int(told)
        if number and self.stopped is None:
            self.stopped = Stopped(number)

    def _raise(self) -> None:
        if self.stopped is not None:
            raise self.stopped


def is_child_process() -> bool:
    """Whether this process was started for a further device of a run."""
    return int(os.environ.get("LOCAL_RANK", 0)) > 0
