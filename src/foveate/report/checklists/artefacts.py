"""What the files of a run say to the items of a guideline; each answer names its file and section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foveate.evaluate.intervals import Value
from foveate.evaluate.results.external import LearnedCounts
from foveate.evaluate.sample import cases_in_words, counted
from foveate.report.cautions import find_cautions
from foveate.report.checklists.item import ItemAnswer
from foveate.report.files import RunFiles
from foveate.report.sections.cohort import PartCounts, count_parts
from foveate.report.sections.section import within


def kind_of_model(files: RunFiles) -> ItemAnswer:
    """Deep learning, and which network."""
    name = within(files.study, "model", "name")
    return ItemAnswer(f"Deep learning: {name}." if name else "", "provenance", "study.yaml")


def network(files: RunFiles) -> ItemAnswer:
    """The network with its options; its card has the layers."""
    name, options = within(files.study, "model", "name"), within(files.study, "model", "options")
    extra = f" with {_listed(options)}" if options else ""
    text = f"{name}{extra}, input {_size(files)}; `foveate models {name}` prints its card." if name else ""
    return ItemAnswer(text, "provenance", "study.yaml")


def inputs(files: RunFiles) -> ItemAnswer:
    """The views are the predictors."""
    views = files.views or ("the image",)
    text = f"The pixels of {', '.join(views)}; no clinical variable is a predictor." if files.study else ""
    return ItemAnswer(text, "data", "study.yaml")


def learned(files: RunFiles) -> ItemAnswer:
    """Of an external test, what its model learned from."""
    counts = files.test.learned if files.test else LearnedCounts()
    cohort = "what its run tells"
    if counts.cases is not None and counts.patients is not None:
        cohort = f"a manifest of {cases_in_words(counts.cases, counts.patients)}"
    text = f"Made by {files.test.of} from {cohort}." if files.test else ""
    return ItemAnswer(text, "shift", "test.json")


def external(files: RunFiles) -> ItemAnswer:
    """Whether this is a test on external data."""
    text = f"This is one: the model of {files.test.of} on another cohort." if files.test else ""
    return ItemAnswer(text, "shift", "test.json")


def manifest(files: RunFiles) -> ItemAnswer:
    """Which table listed the cases."""
    if files.audit is None:
        return ItemAnswer("", "data", "audit.json")
    counts = files.cases_of(files.audit.cases, files.audit.patients)
    digest = files.audit.manifest_sha256[:12]
    return ItemAnswer(f"A manifest lists {counts} (SHA-256 {digest}…).", "data", "audit.json")


def refused(files: RunFiles) -> ItemAnswer:
    """How many cases could not be used."""
    if files.audit is None:
        return ItemAnswer("", "data", "audit.json")
    lost = sum(len(found.case_ids) for found in files.audit.findings if found.code == "refused-image")
    return ItemAnswer(
        f"{lost} of {files.audit.cases} cases of the manifest were refused.", "data", "audit.json"
    )


def audited(files: RunFiles) -> ItemAnswer:
    """What the audit found."""
    if files.audit is None:
        return ItemAnswer("", "data", "audit.json")
    return ItemAnswer(f"Audited; findings: {', '.join(files.audit.codes) or 'none'}.", "data", "audit.json")


def preprocessing(files: RunFiles) -> ItemAnswer:
    """How an image becomes what the network sees."""
    settings = within(files.study, "preprocess")
    if not settings:
        return ItemAnswer("", "provenance", "study.yaml")
    shown = {key: value for key, value in settings.items() if key not in ("views", "mean", "std")}
    return ItemAnswer(f"{_listed(shown).capitalize()}.", "provenance", "study.yaml")


def crops(files: RunFiles) -> ItemAnswer:
    """Whether the model sees a part of the image only."""
    settings = within(files.study, "preprocess")
    if not settings:
        return ItemAnswer("", "provenance", "study.yaml")
    text = (
        f"Images are cropped to the organ mask with a margin of {settings.get('organ_margin')} pixels."
        if settings.get("organ_crop")
        else "Whole images are used."
    )
    return ItemAnswer(text, "provenance", "study.yaml")


def missing(files: RunFiles) -> ItemAnswer:
    """Unknown labels and missing views."""
    if files.metrics is None:
        return ItemAnswer("", "performance", "metrics.json")
    text = f"{files.metrics.without_truth} tested cases without known truth were left out"
    if (patterns := len(files.metrics.by_views)) > 1:
        text += f"; cases lacked views in {patterns - 1} ways, each with figures of its own"
    return ItemAnswer(f"{text}. Unknown findings are left out one by one.", "performance", "metrics.json")


def classes(files: RunFiles) -> ItemAnswer:
    """What is predicted."""
    found, kinds = files.metrics, {"multiclass": "One of", "multilabel": "Any of"}
    text = f"{kinds[found.task]}: {', '.join(found.classes)}." if found else ""
    return ItemAnswer(text, "performance", "metrics.json")


def partition(files: RunFiles) -> ItemAnswer:
    """How cases were divided, with counts."""
    if files.splits is None:
        return ItemAnswer("", "splits", "splits.json")
    parts = count_parts(files, files.splits.folds[files.splits.config.fold])
    if files.test:
        parts = {name: part for name, part in parts.items() if part.cases}
    told = ", ".join(f"{name} {_of(files, part)}" for name, part in parts.items())
    how = "nothing was trained on" if files.test else "drawn by patient, classes spread evenly"
    return ItemAnswer(f"{told}; {how}.", "splits", "splits.json")


def _of(files: RunFiles, part: PartCounts) -> str:
    if part.patients is None:
        return counted(part.cases, "case")
    return files.cases_of(part.cases, part.patients)


def disjoint(files: RunFiles) -> ItemAnswer:
    """No patient in two parts, unless somebody allowed it."""
    if files.splits is None:
        return ItemAnswer("", "splits", "splits.json")
    allowed = files.audit.allowed if files.audit else ()
    if files.test:
        kept = [code for code in ("training-patients", "training-images") if code in allowed]
        if kept:
            return ItemAnswer(f"Not disjoint: {', '.join(kept)} was accepted.", "data", "audit.json")
        text = "No tested patient or image, nor a near copy, was found that the model learned from."
        return ItemAnswer(text, "data", "audit.json")
    if "patient-in-two-splits" in allowed:
        return ItemAnswer("Not disjoint by patient: accepted by whoever ran the study.", "data", "audit.json")
    twins = files.splits.config.keep_twins_together
    also = ", and near-duplicate images stay together" if twins else ""
    return ItemAnswer(
        f"Disjoint by patient{also}; a test on training patients is refused.", "splits", "splits.json"
    )


def test_size(files: RunFiles) -> ItemAnswer:
    """How many were tested."""
    found = files.metrics
    text = f"{files.cases_of(found.n, found.patients)} were tested." if found else ""
    return ItemAnswer(text, "performance", "metrics.json")


def software(files: RunFiles) -> ItemAnswer:
    """Versions."""
    versions = files.run.versions if files.run else {}
    main = [f"{name} {versions[name]}" for name in ("foveate", "python", "torch", "timm") if name in versions]
    text = f"{', '.join(main)}, and {max(0, len(versions) - len(main))} more." if main else ""
    return ItemAnswer(text, "provenance", "run.json")


def initialization(files: RunFiles) -> ItemAnswer:
    """Where the weights began."""
    source = within(files.study, "model", "pretrained")
    if source is None:
        return ItemAnswer("", "provenance", "study.yaml")
    text = (
        "published weights" if source is True else f"the weights in {source}" if source else "random weights"
    )
    return ItemAnswer(f"From {text}, seed {within(files.study, 'seed')}.", "provenance", "study.yaml")


def training(files: RunFiles) -> ItemAnswer:
    """Optimizer, schedule, augmentation."""
    settings, varied = within(files.study, "train"), within(files.study, "augment")
    if not settings:
        return ItemAnswer("", "training", "study.yaml")
    keys = ("epochs", "batch_size", "optimizer", "lr", "weight_decay", "schedule", "balance", "precision")
    told = _listed({key: settings[key] for key in keys if key in settings})
    return ItemAnswer(f"{told}; augmentation: {_listed(varied or {})}.", "training", "study.yaml")


def imbalance(files: RunFiles) -> ItemAnswer:
    """What was done about rare classes."""
    how = within(files.study, "train", "balance")
    words = {
        "none": "Nothing was done about rare classes",
        "weights": "Rare classes weigh more in the loss",
        "sampler": "Rare classes are drawn more often",
        "focal": "The focal loss turns to hard cases",
    }
    text = f"{words[how]}; probabilities are calibrated on validation cases afterwards." if how else ""
    return ItemAnswer(text, "training", "study.yaml")


def selection(files: RunFiles) -> ItemAnswer:
    """Which epoch was kept."""
    monitor = within(files.study, "train", "monitor")
    best = "lowest loss" if monitor == "val_loss" else f"best {str(monitor).replace('_', ' ')}"
    decay = within(files.study, "train", "ema_decay")
    kept = f"; its weights are a running mean over epochs (decay {decay:g})" if decay else ""
    text = f"The epoch with the {best} on validation cases{kept}." if monitor else ""
    return ItemAnswer(text, "training", "study.yaml")


def ensemble(files: RunFiles) -> ItemAnswer:
    """One network, unless the model is several by design."""
    name = within(files.study, "model", "name")
    return ItemAnswer(f"None: one trained {name} predicts." if name else "", "provenance", "study.yaml")


def measures(files: RunFiles) -> ItemAnswer:
    """Which figures."""
    names = files.metrics.metrics.named() if files.metrics else {}
    text = f"{', '.join(name.replace('_', ' ') for name in names)}, each per class as well." if names else ""
    return ItemAnswer(text, "performance", "metrics.json")


def uncertainty(files: RunFiles) -> ItemAnswer:
    """How intervals were made."""
    if files.metrics is None:
        return ItemAnswer("", "performance", "metrics.json")
    found = files.metrics.bootstrap
    kind = found.interval or "percentile"
    text = f"{100 * found.level:g} % {kind} intervals, {found.n} resamples of patients."
    return ItemAnswer(text, "performance", "metrics.json")


def performance(files: RunFiles) -> ItemAnswer:
    """The main figures."""
    found = files.metrics.metrics.named() if files.metrics else {}
    told = [_figure(name, found[key]) for key, name in _MAIN.items() if key in found]
    return ItemAnswer(f"{', '.join(told)}." if told else "", "performance", "metrics.json")


def per_class(files: RunFiles) -> ItemAnswer:
    """Where figures of single classes stand."""
    names = files.metrics.classes if files.metrics else ()
    text = f"Sensitivity, specificity and predictive values of {len(names)} classes." if names else ""
    return ItemAnswer(text, "performance", "metrics.json")


def calibration(files: RunFiles) -> ItemAnswer:
    """How far probabilities can be taken at their word."""
    text = f"{_figure('ECE', files.metrics.calibration.ece)}." if files.metrics else ""
    return ItemAnswer(text, "calibration", "metrics.json")


def recalibrated(files: RunFiles) -> ItemAnswer:
    """What was changed after training."""
    how, fits = within(files.study, "calibrate", "method"), within(files.bundle, "calibration", "fits") or []
    if not how:
        text = ""
    elif how == "none":
        text = "Probabilities are not changed after training."
    elif any(fit.get("check") for fit in fits) and not any(fit["parameters"] for fit in fits):
        text = f"Recalibration ({how}) was tried on validation cases and not kept: it did not help others."
    else:
        text = f"Probabilities are recalibrated ({how}) on validation cases; raw ones are shown beside."
    return ItemAnswer(text, "calibration", "study.yaml")


def thresholds(files: RunFiles) -> ItemAnswer:
    """How a probability becomes a decision."""
    found = files.metrics
    if not found:
        return ItemAnswer("", "performance", "metrics.json")
    text = (
        "A probability for each finding, and a decision at a threshold chosen on validation cases."
        if found.task == "multilabel"
        else "A probability for each class; the decision is the most probable one."
    )
    return ItemAnswer(text, "performance", "metrics.json")


def subgroups(files: RunFiles) -> ItemAnswer:
    """Which groups have figures of their own."""
    if files.metrics is None or files.metrics.subgroups is None:
        return ItemAnswer("", "subgroups", "metrics.json")
    names = list(files.metrics.subgroups)
    text = (
        f"Figures by {', '.join(names)}, with the gap between groups."
        if names
        else ("The manifest has no column of age, sex, site or scanner to tell figures apart by.")
    )
    return ItemAnswer(text, "subgroups", "metrics.json")


def shortcuts(files: RunFiles) -> ItemAnswer:
    """What the probes found."""
    if files.probes is None:
        return ItemAnswer("", "shortcuts", "probes.json")
    told = " ".join(item.sentence for item in files.probes.shortcuts) or "No shortcut was found."
    return ItemAnswer(told, "shortcuts", "probes.json")


def maps(files: RunFiles) -> ItemAnswer:
    """Which heat maps."""
    method = within(files.study, "explain", "method")
    return ItemAnswer(f"Heat maps by {method}." if method else "", "cases", "study.yaml")


def trust(files: RunFiles) -> ItemAnswer:
    """What the trust card says of them."""
    if files.trust is None:
        return ItemAnswer("", "trust", "trust.json")
    told = [f"{name}: {found.sentence}" for name, found in files.trust.verdicts.items()]
    return ItemAnswer(" ".join(told) or "Tested.", "trust", "trust.json")


def failures(files: RunFiles) -> ItemAnswer:
    """Where wrong answers are shown."""
    there = files.metrics is not None and files.heatmaps is not None
    text = "Confusion, and pictures of the surest wrong answers of each class." if there else ""
    return ItemAnswer(text, "cases", "metrics.json")


def cautions(files: RunFiles) -> ItemAnswer:
    """What the page itself warns of."""
    if files.metrics is None:
        return ItemAnswer("", "top", "metrics.json")
    found = find_cautions(files)
    told = " ".join(item.sentence for item in found.items)
    return ItemAnswer(told or found.all_clear, "top", "metrics.json")


def protocol(files: RunFiles) -> ItemAnswer:
    """Everything needed to repeat the run."""
    text = "The study with every default, seeds, hashes and versions." if files.study and files.run else ""
    return ItemAnswer(text, "provenance", "run.json")


def bundle(files: RunFiles) -> ItemAnswer:
    """Weights and all that is needed to use them."""
    digest = files.run.hashes.weights if files.run else None
    text = (
        f"The folder bundle/: weights (SHA-256 {digest[:12]}…), labels, preprocessing, thresholds."
        if digest
        else ""
    )
    return ItemAnswer(text, "provenance", "run.json")


def unusable(files: RunFiles) -> ItemAnswer:
    """What happens to input that cannot be used."""
    text = "Unreadable images are refused with a reason."
    if files.metrics and files.metrics.abstention:
        text += " Unfamiliar images are flagged by a novelty score, uncertain ones by larger prediction sets."
    return ItemAnswer(text if files.metrics else "", "abstention", "metrics.json")


_MAIN = {"auroc_macro": "macro AUROC", "balanced_accuracy": "balanced accuracy", "f1_macro": "macro F1"}


def _figure(name: str, found: Value) -> str:
    if found.value is None:
        return f"{name} undefined ({found.reason})"
    bounds = "" if found.low is None or found.high is None else f" [{found.low:.3f}, {found.high:.3f}]"
    return f"{name} {found.value:.3f}{bounds}"


def _size(files: RunFiles) -> str:
    return " × ".join(str(side) for side in within(files.study, "preprocess", "size") or ())


_JOINTS = {"size": " × ", "window": " to ", "percentiles": " to ", "scale": " to "}


def _listed(settings: Mapping[str, Any]) -> str:
    told = ((key, _plain(value, _JOINTS.get(key, ", "))) for key, value in settings.items())
    return "; ".join(f"{key.replace('_', ' ')} {text}" for key, text in told)


def _plain(value: object, joint: str) -> str:
    if isinstance(value, (list, tuple)):
        return joint.join(map(str, value)) or "none"
    return {None: "none", True: "yes", False: "no"}[value] if isinstance(value, bool | None) else str(value)
