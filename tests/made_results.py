"""Result files of runs that never were, as small as their classes allow."""

from __future__ import annotations

from foveate.evaluate.results.bootstrap import BootstrapFacts
from foveate.evaluate.results.probes import Alone, Probes, Shortcut
from foveate.evaluate.results.trust import MethodCard, TrustCard, TrustPlanFacts
from foveate.evaluate.verdicts import RULES, MapVerdict


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


def card_that_says(method: str, sentence: str) -> TrustCard:
    """A trust card on which a method may be used for nothing."""
    return TrustCard(
        split="test",
        n=20,
        patients=20,
        plan=TrustPlanFacts(cases=20, faithful=20, sanity=20),
        rules=RULES,
        methods={method: MethodCard(verdict=MapVerdict((), sentence))},
    )
