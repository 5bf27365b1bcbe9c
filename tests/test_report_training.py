"""What the report says of the training: which epoch was kept, and what of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foveate.report.checklists.artefacts import selection
from foveate.report.files import RunFiles
from foveate.report.sections.cohort import best_epoch, training
from report_run import write_run
from test_report_calibration import rendered


def test_of_equal_epochs_the_one_with_the_lower_loss_was_kept() -> None:
    columns = {
        "auroc_macro": np.array([0.7, np.nan, 1.0, 1.0, 1.0, 0.9]),
        "val_loss": np.array([0.9, 0.1, 0.5, 0.4, 0.4, 0.2]),
    }
    assert best_epoch(columns, "auroc_macro") == 3
    assert best_epoch(columns, "val_loss") == 1
    assert best_epoch({"auroc_macro": np.full(2, np.nan)}, "auroc_macro") is None
    assert best_epoch({"auroc_macro": np.array([0.7, 0.9, 0.9])}, "auroc_macro") == 1


@pytest.mark.slow
def test_what_was_kept_is_said(tmp_path: Path) -> None:
    files = RunFiles.read(write_run(tmp_path))
    assert files.study is not None
    assert "and its weights were kept." in rendered(training(files)).text
    assert selection(files).text == "The epoch with the best balanced accuracy on validation cases."
    averaged = replace(files, study={**files.study, "train": {**files.study["train"], "ema_decay": 0.7}})
    assert "and the mean of the weights up to it was kept." in rendered(training(averaged)).text
    by_loss = replace(files, study={**files.study, "train": {"monitor": "val_loss"}})
    assert "the best by validation loss was epoch" in rendered(training(by_loss)).text
    assert selection(by_loss).text == "The epoch with the lowest loss on validation cases."
    assert selection(averaged).text == (
        "The epoch with the best balanced accuracy on validation cases; its weights are a running mean over "
        "epochs (decay 0.7)."
    )
