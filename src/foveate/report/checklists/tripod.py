"""TRIPOD+AI: Collins et al. 2024, BMJ 385:e078378. All 27 items with their parts."""

from __future__ import annotations

from foveate.report.checklists import artefacts as run
from foveate.report.checklists.item import Checklist, Item

_TITLE, _INTRO, _METHODS, _OPEN = "Title and abstract", "Introduction", "Methods", "Open science"
_RESULTS, _DISCUSSION = "Results", "Discussion"

TRIPOD_AI = Checklist(
    "TRIPOD+AI",
    "Collins et al. 2024, BMJ 385:e078378",
    (
        Item("1", _TITLE, "a prediction model, its population and outcome", people="the title"),
        Item("2", _TITLE, "structured abstract", people="the abstract"),
        Item("3a", _INTRO, "clinical context and rationale", people="context, and existing models"),
        Item("3b", _INTRO, "population, place in care, users", people="for whom and by whom it is used"),
        Item("3c", _INTRO, "known health inequalities", people="inequalities between groups"),
        Item("4", _INTRO, "objectives: development, evaluation or both", people="objectives"),
        Item(
            "5a", _METHODS, "sources of the data", (run.manifest,), "origin, and how representative they are"
        ),
        Item("5b", _METHODS, "dates", people="start and end of accrual"),
        Item("6a", _METHODS, "setting, number and place of centres", people="setting and centres"),
        Item("6b", _METHODS, "eligibility", (run.refused,), "criteria before the manifest"),
        Item("6c", _METHODS, "treatments", people="treatments, if relevant"),
        Item("7", _METHODS, "preparation and quality of the data", (run.preprocessing, run.audited)),
        Item("8a", _METHODS, "the outcome", (run.classes,), "how and when it was assessed"),
        Item("8b", _METHODS, "who assessed it", people="qualification of the assessors"),
        Item("8c", _METHODS, "blinding of the assessment", people="blinding"),
        Item("9a", _METHODS, "choice of predictors", (run.inputs,)),
        Item("9b", _METHODS, "definition of predictors", (run.inputs,), "how images were acquired"),
        Item("9c", _METHODS, "who assessed predictors", people="nobody if images are used as acquired"),
        Item("10", _METHODS, "sample size", (run.test_size,), "how the size was arrived at"),
        Item("11", _METHODS, "missing data", (run.missing,)),
        Item("12a", _METHODS, "use of the data, partitioning", (run.partition, run.disjoint)),
        Item("12b", _METHODS, "handling of predictors", (run.preprocessing,)),
        Item("12c", _METHODS, "model, its building, tuning", (run.network, run.training, run.selection)),
        Item("12d", _METHODS, "differences between clusters", (run.subgroups,)),
        Item("12e", _METHODS, "measures and plots", (run.measures, run.calibration, run.uncertainty)),
        Item("12f", _METHODS, "updating after evaluation", (run.recalibrated,)),
        Item("12g", _METHODS, "how predictions are computed", (run.protocol,)),
        Item("13", _METHODS, "class imbalance", (run.imbalance,)),
        Item("14", _METHODS, "fairness", (run.subgroups,), "why these groups"),
        Item("15", _METHODS, "output, thresholds", (run.thresholds,)),
        Item("16", _METHODS, "development against evaluation data", (run.disjoint,), "other differences"),
        Item("17", _METHODS, "ethical approval", people="approval and consent"),
        Item("18a", _OPEN, "funding", people="funding"),
        Item("18b", _OPEN, "conflicts of interest", people="conflicts of interest"),
        Item("18c", _OPEN, "protocol", (run.protocol,), "the protocol, if there is one"),
        Item("18d", _OPEN, "registration", people="registration"),
        Item("18e", _OPEN, "availability of the data", people="where the data can be had"),
        Item("18f", _OPEN, "availability of the code", (run.software,), "where the model can be had"),
        Item("19", "Involvement", "patients and public", people="how they were involved"),
        Item("20a", _RESULTS, "flow of participants", (run.refused,), "the flow before the manifest"),
        Item("20b", _RESULTS, "characteristics", (run.partition, run.subgroups), "demographics"),
        Item("20c", _RESULTS, "development compared with evaluation", (run.partition,)),
        Item("21", _RESULTS, "participants and events of each analysis", (run.partition,)),
        Item("22", _RESULTS, "the whole model, for use", (run.bundle,)),
        Item(
            "23a", _RESULTS, "performance with intervals, in subgroups too", (run.performance, run.subgroups)
        ),
        Item("23b", _RESULTS, "differences between clusters", (run.subgroups,)),
        Item("24", _RESULTS, "results of updating", (run.recalibrated,)),
        Item("25", _DISCUSSION, "interpretation, fairness included", people="interpretation"),
        Item("26", _DISCUSSION, "limitations", (run.cautions,), "what the run cannot know"),
        Item("27a", _DISCUSSION, "poor or missing input", (run.unusable,)),
        Item("27b", _DISCUSSION, "users' part and expertise", people="what users must know and do"),
        Item("27c", _DISCUSSION, "next steps", people="next steps"),
    ),
)
