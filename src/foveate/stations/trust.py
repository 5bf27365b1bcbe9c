"""Can the pictures be trusted? Heat maps are tested against controls; writes ``trust.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.errors import InputRefused, UsageError
from foveate.evaluate.intervals import Bootstrap
from foveate.evaluate.results.localization import Localization, LocalizationFigures
from foveate.evaluate.results.probes import Probes
from foveate.evaluate.results.trust import MethodCard, TrustCard, TrustPlanFacts
from foveate.evaluate.verdicts import CONTROLS, RULES, MapVerdict, judge
from foveate.stations.batches import cases_of, prepared_batches, raise_if_partial
from foveate.stations.cautions import note_cautions
from foveate.stations.run import Run
from foveate.types import Steps, Track, quiet

if TYPE_CHECKING:
    from rich.console import Console

    from foveate.stations.trust_card.asking import Questions

NO_PROBES = "shortcuts were not looked for: run `foveate probe`"


def trust(
    run: Run,
    part: str = "test",
    *,
    methods: Sequence[str] = (),
    rivals: Mapping[str, Path | None] | None = None,
    retrain: bool = False,
    console: Console | None = None,
    track: Track = quiet,
) -> TrustCard:
    """Test the heat maps of a run; writes ``trust.json``.

    Args:
        run: with a bundle.
        part: whose cases are asked.
        methods: names in ``EXPLAINERS``; none takes the study's.
        rivals: other runs by kind: ``second`` (the same study, another seed), ``permuted`` (permuted labels).
        retrain: train both from the study, into ``trust/``, where they are not named.
        console: shows the progress of these trainings.
        track: shows progress.

    Returns:
        What ``trust.json`` holds.

    Raises:
        UsageError: no such method, a rival does not fit, or the part has no cases.
        Partial: some cases were refused; the others are in the file.
    """
    if retrain:
        run.refuse_external("trust --retrain")
    with run.station("trust"):
        refused: list[InputRefused] = []
        questions, patients = _ask(
            run, part, methods, _rivals(run, rivals or {}, retrain, console), refused, track
        )
        card = _tell(run, part, questions, patients)
        card.write(run.folder)
    note_cautions(run)
    raise_if_partial(refused, f"tested the heat maps of {card.n} cases")
    return card


def _rivals(
    run: Run, named: Mapping[str, Path | None], retrain: bool, console: Console | None
) -> dict[str, Path | None]:
    from foveate.stations.trust_card import rivals

    return {
        kind: named.get(kind) or (rivals.retrain(run, kind, console) if retrain else None)
        for kind in rivals.KINDS
    }


def _ask(
    run: Run,
    part: str,
    methods: Sequence[str],
    rivals: Mapping[str, Path | None],
    refused: list[InputRefused],
    track: Track,
) -> tuple[Questions, list[str]]:
    """Ask every question of every case; the answers, and the patients of the cases."""
    from foveate.bundle.bundle import load_bundle
    from foveate.stations.explained import explain_options
    from foveate.stations.trust_card.asking import ROUNDS, Questions
    from foveate.stations.trust_card.columns import CaseFigures
    from foveate.stations.trust_card.plan import TrustPlan, economical, in_order
    from foveate.stations.trust_card.pointing import Pointing
    from foveate.stations.trust_card.rivals import find_rivals

    settings, seed = run.study.trust, run.study.seed
    bundle = load_bundle(run.path("bundle", made_by="train"))
    plan = TrustPlan.of(settings.cases, volumes=bundle.preprocess.config.volumes)
    cases = in_order(cases_of(run, run.cohort(), [part]), plan.cases, seed)
    if not cases:
        raise UsageError(f"no case is in the part '{part}'", fix="choose train, val or test")
    asked = _known(methods or settings.methods)
    options = explain_options(bundle, run.study.explain)
    questions = Questions(
        bundle,
        [*asked, *CONTROLS],
        plan,
        economical(options),
        find_rivals(run, bundle, rivals),
        Pointing(bundle),
        seed,
        CaseFigures(len(cases)),
    )
    patients: list[str] = []
    steps = Steps(track, ROUNDS * len(cases), f"Testing heat maps, {ROUNDS} rounds a case")
    for batch in prepared_batches(bundle, cases, refused, quiet, "", plain=False):
        for _ in questions.ask(batch, len(patients)):
            steps.advance(len(batch))
        patients += [item.case.patient_id for item in batch]
    steps.advance(ROUNDS * len(refused))
    return questions, patients


def _tell(run: Run, part: str, questions: Questions, patients: list[str]) -> TrustCard:
    from foveate.stations.trust_card.plan import is_costly
    from foveate.stations.trust_card.telling import add_gaps, card_of, conditions_of, tell

    settings, columns, plan = run.study.evaluate, questions.columns, questions.plan
    bootstrap = Bootstrap(settings.bootstrap, settings.level, run.study.seed, settings.interval)
    methods = [name for name in questions.methods if name not in CONTROLS]
    add_gaps(columns)
    told = tell(columns, methods, patients, bootstrap)
    flags, shortcuts = _flags(run)
    explainer, located = _located(run, part)
    cards: dict[str, MethodCard] = {}
    for name in (*methods, *CONTROLS, *(["random_order"] if "random_order" in columns.numbers else ())):
        conditions = (
            {}
            if name == "random_order"
            else conditions_of(name, told, _reasons(questions), located if name == explainer else {})
        )
        cards[name] = card_of(name, told, conditions, columns)
        if name in methods:
            verdict = judge(conditions, flagged=bool(flags))
            cards[name] = cards[name].model_copy(update={"verdict": verdict})
    impossible = {name: why for name, why in questions.impossible.items() if name != "attention"}
    return TrustCard(
        split=part,
        n=len(patients),
        patients=len(set(patients)),
        classes=questions.bundle.classes,
        level=settings.level,
        plan=TrustPlanFacts(
            cases=plan.cases,
            faithful=plan.faithful,
            sanity=plan.sanity,
            costly=tuple(name for name in methods if is_costly(name)),
        ),
        rules=RULES,
        flags=tuple(flags),
        shortcuts=shortcuts,
        methods={name: cards[name] for name in methods}
        | {
            name: MethodCard(verdict=MapVerdict((), f"not tested: {why}."))
            for name, why in impossible.items()
        },
        controls={name: card for name, card in cards.items() if name not in methods},
        shares={curve: tuple(points) for curve, points in questions.shares.items()},
        stages=tuple(questions.stages),
        rivals={kind: str(rival.source) for kind, rival in questions.rivals.items()},
    )


def _known(methods: Sequence[str]) -> list[str]:
    """The methods, each once and without the controls, which are always tested."""
    from foveate.explain.explainers import EXPLAINERS

    for name in methods:
        if name.partition(":")[0] not in EXPLAINERS:
            raise UsageError(f"there is no explainer '{name}'", fix=f"choose from: {', '.join(EXPLAINERS)}")
    return [name for name in dict.fromkeys(methods) if name not in CONTROLS]


def _reasons(questions: Questions) -> dict[str, str]:
    """Why conditions could not be tested of any method."""
    from foveate.stations.trust_card.rivals import KINDS

    found = {kind: why for kind, why in KINDS.items() if kind not in questions.rivals}
    if "attention" in questions.impossible:
        found["attention"] = questions.impossible["attention"]
    if not any("pointing_game" in own for own in questions.columns.numbers.values()):
        found["localizing"] = "nothing is marked in these images"
    return found


def _located(run: Run, part: str) -> tuple[str, dict[str, LocalizationFigures]]:
    """What ``foveate localize`` found on all marked cases of a part: one fact is to be told in one strength.

    Returns:
        Which method drew those maps, and its differences from each control by measure.
    """
    found = Localization.read(run.folder)
    return ("", {}) if found is None or found.split != part else (found.explainer, found.differences)


def _flags(run: Run) -> tuple[list[str], str]:
    """What the probes found, as sentences, and whether they ran."""
    probes = Probes.read(run.folder)
    if probes is None:
        return [], NO_PROBES
    found = [shortcut.sentence for shortcut in probes.shortcuts]
    return found, "shortcuts were found" if found else "shortcuts were looked for and none was found"
