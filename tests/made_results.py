"""Result files of runs that never were, as small as their classes allow."""

from __future__ import annotations

from foveate.evaluate.results.bootstrap import BootstrapFacts
from foveate.evaluate.results.probes import Alone, Probes, Shortcut


def probes_that_found(*sentences: str) -> Probes:
    """Probes that name these shortcuts and nothing else."""
    return Probes(
        split="test",
        n=20,
        patients=20,
        classes=("ill", "well"),
        bootstrap=BootstrapFacts(n=2000, level=0.95),
        shortcuts=tuple(Shortcut(kind="marker", label="ill", sentence=sentence) for sentence in sentences),
        leaks=(),
        sentences=sentences,
        views={},
        metadata=Alone(reason="there is no training case with a known truth"),
        not_tested=(),
    )
