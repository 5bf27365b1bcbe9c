"""What each station of a study will cost, told before any of them starts: passes through the network.

A pass takes one case through the network, with all of its views. Passes are counted from the study and the
cohort alone; how long one takes is measured on a few images of noise, in float32, as the stations compute.
Reading files, statistics and drawing come on top. What depends on the answers is counted as if all of it were
asked, so that a station may take less.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import torch

from foveate.contract import Classifier, InputSpec
from foveate.evaluate.sample import counted
from foveate.evaluate.verdicts import CONTROLS
from foveate.explain.gradients import sweep
from foveate.explain.isolation import isolated
from foveate.explain.options import ExplainOptions, FaithfulnessOptions
from foveate.explain.sanity import STAGES
from foveate.explain.shares import ShareOptions
from foveate.stations.fitting import FAMILIAR, FAMILIAR_VOLUMES
from foveate.stations.probe import SCREENING, VOLUME_CASES
from foveate.stations.shortcuts.questions import CANDIDATES, FEWEST_TO_SCREEN
from foveate.stations.shortcuts.regions import Tiles
from foveate.stations.trust_card.plan import TrustPlan, economical, is_costly
from foveate.study.study import Study
from foveate.types import Cohort

_TIMED, _TIMED_VOLUMES = 4, 1  # cases of noise
_TURNS, _LONG = 4, 1.0  # so often, or for so many seconds


@dataclass(frozen=True, slots=True)
class Passes:
    """Numbers of passes: ``forward`` alone, and ``back`` again for a gradient."""

    forward: int = 0
    back: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.back + other.back)

    def __mul__(self, times: int) -> Passes:
        return Passes(self.forward * times, self.back * times)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of one pass, ``forward`` alone, and with the way ``back``."""

    forward: float
    back: float

    @classmethod
    def of(cls, model: Classifier) -> Self:
        """Measure it in evaluation mode, where the model is; it stays as it is."""
        spec = model.input_spec
        count = _TIMED_VOLUMES if len(spec.size) == 3 else _TIMED
        draw, shape = torch.Generator().manual_seed(0), (count, spec.channels, *spec.size)
        views = {view: torch.randn(shape, generator=draw) for view in spec.views}
        with isolated(model, views) as (worker, inputs):

            def forward() -> None:
                with torch.no_grad():
                    worker(inputs)

            def back() -> None:
                score = worker({view: x.requires_grad_() for view, x in inputs.items()}).logits.sum()
                torch.autograd.grad(score, list(inputs.values()), allow_unused=True)

            return cls(_quickest(forward) / count, _quickest(back) / count)


def _quickest(work: Callable[[], None]) -> float:
    """Seconds of the quickest turn; after some seconds no further turn begins, the first only warms up."""
    times: list[float] = []
    while len(times) < _TURNS and sum(times) < _LONG:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one station.

    Attributes:
        station: its command.
        work: what it goes through, in numbers.
        passes: through the network.
        smaller: keys of the study that make it smaller.
        here: whether the passes are made where the pace is measured, on the processor.
    """

    station: str
    work: str
    passes: Passes = Passes()
    smaller: str = ""
    here: bool = True

    def seconds(self, pace: Pace) -> float:
        """About how long the passes take."""
        return self.passes.forward * pace.forward + self.passes.back * pace.back


def costs_of(
    study: Study, cohort: Cohort, parts: Mapping[str, int], spec: InputSpec, *, trains: bool = True
) -> list[Cost]:
    """The stations that take time, in their order.

    Args:
        study: every choice.
        cohort: all cases.
        parts: number of cases by part.
        spec: what the network eats.
        trains: False after the audit of an external test, which has no training.
    """
    found = [_of_audit(cohort), _of_training(study, parts)] if trains else []
    known = min(parts["train"], FAMILIAR_VOLUMES if study.preprocess.volumes else FAMILIAR) * trains
    told = parts["val"] + parts["test"]
    work = counted(told, "case") + (f" and {known} of the training" if known else "")
    found.append(Cost("predict", work, Passes(told + known)))
    found.append(_of_explaining(study, len(cohort.classes), parts, spec))
    return [*found, _of_probes(study, cohort, parts, spec), _of_trust(study, parts, spec)]


def map_passes(method: str, options: ExplainOptions, spec: InputSpec, targets: int) -> Passes:
    """Passes for the maps of one case by a method, for so many classes."""
    name = method.partition(":")[0]
    covers = options.baselines if options.baseline == "random" else 1
    if name == "integrated_gradients":
        return Passes(back=targets * covers * options.ig_steps)
    if name == "smoothgrad":
        return Passes(back=targets * options.smoothgrad_samples)
    if name == "occlusion":
        window, stride = sweep("", spec.size, options)
        steps = zip(spec.size, window, stride, strict=True)
        windows = math.prod(1 + -(-(side - wide) // step) for side, wide, step in steps)
        return Passes(len(spec.views) * covers * (1 + windows))
    if name in ("gradient", "guided_backprop", "guided_gradcam"):
        return Passes(int(name == "guided_gradcam"), targets)
    return Passes(0 if name in CONTROLS else 1)


def _of_audit(cohort: Cohort) -> Cost:
    files = {path for case in cohort.cases for path in case.views.values()}
    return Cost("audit", counted(len(files), "file"))


def _of_training(study: Study, parts: Mapping[str, int]) -> Cost:
    epochs = study.train.epochs
    work = f"{counted(epochs, 'epoch')} of {counted(parts['train'], 'case')}"
    passes = Passes(parts["val"], parts["train"]) * epochs
    here = study.train.accelerator == "cpu" or not torch.cuda.is_available()
    return Cost("train", work, passes, "train.epochs, preprocess.size", here)


def _of_explaining(study: Study, classes: int, parts: Mapping[str, int], spec: InputSpec) -> Cost:
    settings, views = study.explain, len(spec.views)
    cases = sum(min(parts[part], settings.limit or parts[part]) for part in settings.split)
    each, smaller = map_passes(settings.method, _options(study), spec, classes), "explain.limit"
    if settings.method == "integrated_gradients":  # what the maps miss
        each += Passes(2)
    if views > 1 and settings.weigh_views:
        shares, smaller = ShareOptions(), f"{smaller}, explain.weigh_views"
        orders = 2 * shares.permutations * (views - 1) + 1
        each += Passes(2**views - 1 if views <= shares.exact_up_to else orders)
    return Cost("explain", f"{counted(cases, 'case')} by {settings.method}", each * cases, smaller)


def _of_probes(study: Study, cohort: Cohort, parts: Mapping[str, int], spec: InputSpec) -> Cost:
    """As if every question could be asked: three passes for a region, two for a tile or a scale."""
    most = min(study.probe.cases, VOLUME_CASES) if study.preprocess.volumes else study.probe.cases
    test, val = min(parts["test"], most), min(parts["val"], most, SCREENING)
    marked = any(case.mask or case.boxes for case in cohort.cases)
    organ = any(case.organ_mask for case in cohort.cases)
    regions = 2 + organ + marked * (2 + organ)  # border and strokes; what lies outside or inside of masks
    tiles = len(Tiles.over(spec.size, study.probe.tiles).places)
    screened = val if val >= FEWEST_TO_SCREEN else test
    each = test * (1 + 3 * regions + 2 * (1 + marked)) + screened * (1 + tiles)
    passes = Passes(len(spec.views) * each + test * (1 + 2 * CANDIDATES))
    work = f"{tiles} tiles of {counted(screened, 'case')}, regions of {test}"
    return Cost("probe", work, passes, "probe.tiles, probe.cases")


def _of_trust(study: Study, parts: Mapping[str, int], spec: InputSpec) -> Cost:
    plan = TrustPlan.of(min(study.trust.cases, parts["test"]), volumes=study.preprocess.volumes)
    methods = [*(name for name in dict.fromkeys(study.trust.methods) if name not in CONTROLS), *CONTROLS]
    total = Passes(plan.cases + (len(STAGES) + 1) * plan.sanity)  # answers; norms drawn anew, attention
    for name in methods:
        again = len(STAGES) - is_costly(name) + 2  # layers drawn anew; noise and shift
        drawn = plan.asked(name, "cases") + again * plan.asked(name, "sanity")
        total += map_passes(name, economical(_options(study)), spec, 1) * drawn
        total += Passes(3 * plan.asked(name, "sanity"))  # without evidence for, without evidence against
    since = 0
    for end in sorted({plan.asked(name, "faithful") for name in methods}):
        maps = sum(plan.asked(name, "faithful") >= end for name in methods)
        total += Passes(FaithfulnessOptions().passes(maps)) * (end - since)
        since = end
    work = f"{counted(len(methods) - len(CONTROLS), 'method')} on {counted(plan.cases, 'case')}"
    return Cost("trust", work, total, "trust.cases, trust.methods")


def _options(study: Study) -> ExplainOptions:
    settings = study.explain
    return ExplainOptions(
        baseline=settings.baseline, baselines=settings.baselines, ig_steps=settings.ig_steps
    )
