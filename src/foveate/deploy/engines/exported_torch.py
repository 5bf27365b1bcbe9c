"""A ``.pt2`` file of ``torch.export``, run by torch in float32; no code of the model is needed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from foveate.deploy.engines.facts import FACTS, Facts
from foveate.deploy.engines.graph import Arrays, GraphEngine
from foveate.errors import InputRefused, UsageError


class ExportedTorch(GraphEngine):
    """A ``.pt2`` file that ``foveate export`` wrote.

    Args:
        path: of the file.
        precision: ``f32``, the only one it has.

    Raises:
        InputRefused: it cannot be read, or is none of ours.
    """

    name = "torch"

    def __init__(self, path: Path, precision: str = "f32") -> None:
        if precision != "f32":
            raise UsageError(f"an exported torch graph has no '{precision}'", fix="choose torch")
        facts = {FACTS: ""}
        try:
            program = torch.export.load(path, extra_files=facts)
        except (RuntimeError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputRefused(
                f"torch cannot read it: {error}", where=str(path), code="not-an-export"
            ) from error
        self.facts = Facts.from_text(str(facts[FACTS]), str(path))
        self._module = program.module(check_guards=False)  # what it was traced for holds for any size

    @torch.inference_mode()
    def run(self, inputs: dict[str, NDArray[np.float32]]) -> Arrays:
        """Run the graph."""
        found = self._module(tuple(torch.from_numpy(inputs[name]) for name in self.facts.input_names()))
        return {name: values.numpy() for name, values in found.items()}
