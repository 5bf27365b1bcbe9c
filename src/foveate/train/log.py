"""What training reports of every epoch: ``training.csv`` always, TensorBoard on request."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveate.errors import MissingExtra
from foveate.files import write_atomic

Row = Mapping[str, float | int | None]


def write_training_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write one line per epoch, all anew, so that a resumed training leaves no epoch twice.

    Args:
        path: of the CSV.
        rows: with the same keys; None (undefined) becomes an empty cell, floats keep every digit.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["epoch"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


class TrainingLog:
    """The log of one run.

    Args:
        folder: of the run; ``training.csv`` and ``tensorboard/`` lie there.
        tensorboard: whether to write event files too.
        epochs_done: by the checkpoint that training goes on from; later events are hidden.

    Raises:
        MissingExtra: TensorBoard is asked for but not installed.
    """

    def __init__(self, folder: Path, *, tensorboard: bool, epochs_done: int) -> None:
        self._csv = folder / "training.csv"
        self._events = _open_tensorboard(folder / "tensorboard", epochs_done + 1) if tensorboard else None

    def write(self, rows: Sequence[Row]) -> None:
        """Write all epochs so far."""
        write_training_csv(self._csv, rows)
        if self._events is not None:
            for name, value in rows[-1].items():
                if value is not None and name != "epoch":
                    self._events.add_scalar(name, value, global_step=rows[-1]["epoch"])

    def close(self) -> None:
        """Finish the event file."""
        if self._events is not None:
            self._events.close()


def _open_tensorboard(folder: Path, first_epoch: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtra("tensorboard") from None
    return SummaryWriter(log_dir=str(folder), purge_step=first_epoch)
