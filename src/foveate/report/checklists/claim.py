"""CLAIM 2024: Tejani et al. 2024, Radiology: Artificial Intelligence 6(4):e240300. All 44 items."""

from __future__ import annotations

from foveate.report.checklists import artefacts as run
from foveate.report.checklists.item import Checklist, Item

_TITLE, _INTRO, _DESIGN, _DATA = "Title and abstract", "Introduction", "Study design", "Data"
_REFERENCE, _PARTS, _TESTED = "Reference standard", "Data partitions", "Testing data"
_MODEL, _TRAINING, _EVALUATION = "Model", "Training", "Evaluation"
_RESULTS, _DISCUSSION, _OTHER = "Results", "Discussion", "Other information"

CLAIM = Checklist(
    "CLAIM 2024",
    "Tejani et al. 2024, Radiology: Artificial Intelligence 6(4):e240300",
    (
        Item("1", _TITLE, "name the kind of AI in the title or abstract", (run.kind_of_model,), "the title"),
        Item("2", _TITLE, "structured summary", people="the abstract"),
        Item("3", _INTRO, "background, intended use and role", people="background and intended use"),
        Item("4", _INTRO, "aims, objectives, hypotheses", people="aims and hypotheses"),
        Item("5", _DESIGN, "prospective or retrospective", people="how the study was designed"),
        Item("6", _DESIGN, "goal of the study", people="the goal"),
        Item("7", _DATA, "sources of the data", (run.manifest,), "where the data came from"),
        Item("8", _DATA, "inclusion and exclusion criteria", (run.refused,), "criteria before the manifest"),
        Item("9", _DATA, "preprocessing", (run.preprocessing,)),
        Item("10", _DATA, "selection of parts of the data", (run.crops,), "what was selected beforehand"),
        Item("11", _DATA, "de-identification", people="how identities were removed"),
        Item("12", _DATA, "missing data", (run.missing,)),
        Item("13", _DATA, "image acquisition protocol", people="scanners and protocols"),
        Item("14", _REFERENCE, "definition of the reference standard", (run.classes,), "how it was obtained"),
        Item("15", _REFERENCE, "why this reference standard", people="the rationale"),
        Item("16", _REFERENCE, "source of the annotations", people="who annotated, with which training"),
        Item("17", _REFERENCE, "annotation of the test set", people="how the test cases were annotated"),
        Item("18", _REFERENCE, "variability within and between raters", people="the raters' agreement"),
        Item("19", _PARTS, "how cases were assigned to parts", (run.partition,)),
        Item("20", _PARTS, "level at which parts are disjoint", (run.disjoint,)),
        Item("21", _TESTED, "intended sample size", (run.test_size,), "how the size was arrived at"),
        Item("22", _MODEL, "detailed description of the model", (run.network,)),
        Item("23", _MODEL, "software, frameworks, packages", (run.software,)),
        Item("24", _MODEL, "initialization of the weights", (run.initialization,)),
        Item("25", _TRAINING, "training in detail", (run.training,)),
        Item("26", _TRAINING, "how the final model was chosen", (run.selection,)),
        Item("27", _TRAINING, "ensembling", (run.ensemble,)),
        Item("28", _EVALUATION, "measures of performance", (run.measures, run.calibration)),
        Item("29", _EVALUATION, "significance and uncertainty", (run.uncertainty,)),
        Item("30", _EVALUATION, "robustness, sensitivity analysis", (run.subgroups, run.shortcuts)),
        Item("31", _EVALUATION, "explainability, and whether it was validated", (run.maps, run.trust)),
        Item("32", _EVALUATION, "evaluation on internal data", (run.test_size,)),
        Item(
            "33",
            _EVALUATION,
            "testing on external data",
            (run.external,),
            people="tests elsewhere (`foveate test`)",
        ),
        Item("34", _EVALUATION, "registration of a trial", people="registration, if it is a trial"),
        Item(
            "35", _RESULTS, "numbers included and excluded", (run.refused,), "exclusions before the manifest"
        ),
        Item("36", _RESULTS, "characteristics of each part", (run.partition, run.subgroups), "demographics"),
        Item("37", _RESULTS, "performance with uncertainty", (run.performance,)),
        Item("38", _RESULTS, "diagnostic performance and its precision", (run.per_class,)),
        Item("39", _RESULTS, "analysis of failures", (run.failures,), "what the failures have in common"),
        Item("40", _DISCUSSION, "limitations", (run.cautions,), "what the run cannot know"),
        Item("41", _DISCUSSION, "implications for practice", people="use and clinical role"),
        Item("42", _OTHER, "protocol, technical details", (run.protocol,), "the protocol, if there is one"),
        Item("43", _OTHER, "availability of software, model, data", (run.software,), "where they can be had"),
        Item("44", _OTHER, "funding and the role of funders", people="funding"),
    ),
)
