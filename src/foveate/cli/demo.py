"""``foveate demo``: the whole way once, on a phantom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foveate.cli.run import whole_way

_STUDY = Path(__file__).parents[1] / "studies" / "ct_phantom_dadrn.yaml"


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the phantom, the run and the report.")
    ] = Path("foveate-demo"),
    patients: Annotated[int, typer.Option(help="Phantom patients.")] = 160,
    seed: Annotated[int, typer.Option(help="Seed of phantom, split and training.")] = 0,
) -> None:
    """Do the whole way once on a built-in phantom, and write its report.

    Example: foveate demo
    """
    from foveate.cli import terminal
    from foveate.data.phantoms.ct import make_phantom
    from foveate.stations.run import Run
    from foveate.study.study import Study

    terminal.heading("Phantom", "CT liver slices with known lesions")
    manifest = make_phantom(out / "phantom", patients=patients, slices=4, seed=seed, track=terminal.track)
    study = Study.load(_STUDY).with_manifest(manifest, seed=seed)
    whole_way(Run.create(study, out / "run"))
