"""The run as a model card, and what it says to the reporting guidelines."""

from __future__ import annotations

from collections import Counter

from foveate.errors import InputRefused
from foveate.report.checklists import CLAIM, TRIPOD_AI, artefacts, fill
from foveate.report.files import RunFiles
from foveate.report.sections.section import Section

# Heading of the card (Mitchell et al. 2019, FAT*, section 4) → what the run says to it.
_CARD = {
    "Model": (artefacts.network, artefacts.initialization, artefacts.software),
    "Output": (artefacts.classes, artefacts.thresholds, artefacts.recalibrated),
    "Training data": (artefacts.manifest, artefacts.partition, artefacts.audited),
    "Training": (artefacts.training, artefacts.selection, artefacts.imbalance),
    "Evaluation data": (artefacts.test_size, artefacts.disjoint, artefacts.missing),
    "Figures": (artefacts.performance, artefacts.calibration, artefacts.uncertainty),
    "Groups": (artefacts.subgroups,),
    "Heat maps": (artefacts.maps, artefacts.trust, artefacts.shortcuts),
    "Caveats": (artefacts.cautions, artefacts.unusable),
}
# What no file of a run can know.
_FOR_PEOPLE = {
    "Intended use": "for which patients, by whom, at which point of care; and for whom it is not meant",
    "Ethics": "approval, consent, risks and harms that were considered",
    "Contact": "who answers for this model, and its licence",
}


# The same of an external test, whose manifest, parts and audit are those of what was tested.
_TEST_CARD = _CARD | {
    "Training data": (artefacts.learned,),
    "Evaluation data": (
        artefacts.manifest,
        artefacts.partition,
        artefacts.audited,
        artefacts.test_size,
        artefacts.disjoint,
        artefacts.missing,
    ),
}


def model_card(files: RunFiles) -> Section:
    """What the model is, from what it was made, and how it did, on one card."""
    if files.study is None:
        return Section("model-card", "Model card", "run", None)
    rows = {
        heading: [found for answer in answers if (found := answer(files)).text]
        for heading, answers in (_TEST_CARD if files.test else _CARD).items()
    }
    people = [(name, what, files.answers.get(name, "")) for name, what in _FOR_PEOPLE.items()]
    return Section("model-card", "Model card", "run", {"rows": rows, "people": people})


def guidelines(files: RunFiles) -> Section:
    """The items of TRIPOD+AI and CLAIM 2024, filled in where the run can."""
    _check_answers(files)
    if files.study is None:
        return Section("guidelines", "Reporting guidelines", "run", None)
    lists = []
    for checklist in (TRIPOD_AI, CLAIM):
        filled = fill(checklist, files)
        lists.append(
            {"checklist": checklist, "rows": filled, "counts": Counter(row.status for row in filled)}
        )
    return Section("guidelines", "Reporting guidelines", "run", {"lists": lists})


def _check_answers(files: RunFiles) -> None:
    """Refuse an answer to an item that does not exist: it would be lost without a word."""
    known = {f"{each.name} {item.number}" for each in (TRIPOD_AI, CLAIM) for item in each.items} | {
        *_FOR_PEOPLE
    }
    if unknown := sorted(set(files.answers) - known):
        raise InputRefused(
            f"there is no item called {', '.join(unknown)}",
            where=str(files.folder / "answers.yaml"),
            fix="write the guideline and the number, such as 'CLAIM 2024 5' or 'TRIPOD+AI 3a', or one of: "
            + ", ".join(_FOR_PEOPLE),
            code="bad-answers",
        )
