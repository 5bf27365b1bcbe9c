"""From figures of single cases to what ``trust.json`` says: means, differences, conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foveate.evaluate.intervals import Bootstrap, Floats, Value
from foveate.evaluate.localization.wording import FEW_PATIENTS
from foveate.evaluate.means import DIFFERENCE, SHARE, means
from foveate.evaluate.results.localization import LocalizationFigures
from foveate.evaluate.results.trust import MethodCard
from foveate.evaluate.verdicts import (
    CONTROLS,
    Condition,
    above_nought,
    beats,
    not_tested,
    other_picture,
    other_pictures,
    same_picture,
)
from foveate.stations.trust_card.columns import CaseFigures

Located = Mapping[str, LocalizationFigures]  # by control
FAITHFULNESS = ("gap_blur", "gap_mean", "road", "sensitivity_n")
FORGOTTEN = {"half of the layers": "randomised_half", "all layers": "randomised"}
ENOUGH = 2  # of these four ways
#: Scores in which a method is compared with every control, each case with itself.
COMPARED = (*FAITHFULNESS, "pointing_game", "energy_inside", "falls")
#: Scored of volumes only, where it decides whether a method points at what is marked: see ``localization``.
IN_PLANE = "plane_pointing"
BOUNDED = ("pointing_game", "energy_inside", IN_PLANE)
#: Rank correlations: between 0 and 1 as well, since maps that oppose each other are no less alike than any.
_CORRELATIONS = (*FORGOTTEN.values(), "permuted_magnitude", "noise", "shift", "second")


@dataclass(frozen=True, slots=True)
class TrustMeans:
    """Means of every method and control, and differences of methods from controls.

    Attributes:
        scores: by method and name.
        differences: by method, control and name: method less control.
    """

    scores: Mapping[str, Mapping[str, Value]]
    differences: Mapping[str, Mapping[str, Mapping[str, Value]]]


def add_gaps(columns: CaseFigures) -> None:
    """Enter insertion less deletion: how much faster the score goes by the map's order than against it."""
    for found in columns.numbers.values():
        for baseline in ("blur", "mean"):
            both = found.get(f"insertion_{baseline}"), found.get(f"deletion_{baseline}")
            if both[0] is not None and both[1] is not None:
                found[f"gap_{baseline}"] = both[0] - both[1]


def tell(
    columns: CaseFigures, methods: Sequence[str], patients: Sequence[str], bootstrap: Bootstrap
) -> TrustMeans:
    """Means with intervals over patients; all figures share the replicates.

    Args:
        columns: figures of single cases, gaps included.
        methods: to compare with the controls.
        patients: of the cases.
        bootstrap: of the intervals.
    """
    table: dict[str, Floats] = {}
    places: dict[str, tuple[str, ...]] = {}
    for method, found in columns.numbers.items():
        for name, values in found.items():
            table[f"{method}\t{name}"], places[f"{method}\t{name}"] = values, (method, name)
    volumes = any(IN_PLANE in found for found in columns.numbers.values())
    for method in methods:
        for control in CONTROLS:
            for name in (*COMPARED, *((IN_PLANE,) if volumes else ())):
                key = f"{method}\t{control}\t{name}"
                table[key] = columns.of(method, name) - columns.of(control, name)
                places[key] = method, control, name
    scores: dict[str, dict[str, Value]] = {}
    differences: dict[str, dict[str, dict[str, Value]]] = {}
    cut = {key: values[: len(patients)] for key, values in table.items()}
    bounds = {
        key: DIFFERENCE if len(place) == 3 else SHARE
        for key, place in places.items()
        if place[-1] in (*BOUNDED, *_CORRELATIONS)
    }
    for key, value in means(cut, patients, bootstrap, bounds=bounds).items():
        place = places[key]
        if len(place) == 2:
            scores.setdefault(place[0], {})[place[1]] = value
        else:
            differences.setdefault(place[0], {}).setdefault(place[1], {})[place[2]] = value
    return TrustMeans(scores, differences)


def conditions_of(
    method: str, told: TrustMeans, reasons: Mapping[str, str], located: Located | None = None
) -> dict[str, Condition]:
    """What a method was asked to show, and whether it did.

    Args:
        method: or control; a control is not compared with controls.
        told: all figures.
        reasons: by condition, why it could not be tested of any method.
        located: differences from each control of maps that were scored on more cases than are asked here, as
            ``localization.json`` has them; None where there are none.
    """
    scores = told.scores.get(method, {})
    found = {
        "randomisation": other_pictures({what: _score(scores, name) for what, name in FORGOTTEN.items()}),
        "permuted": other_picture(_score(scores, "permuted_magnitude")),
        **{name: same_picture(_score(scores, name)) for name in ("noise", "shift", "second")},
        "attention": above_nought(
            _score(scores, "attention_beyond"), "rank correlation beyond that with other patients"
        ),
    }
    if method in told.differences:
        found = _against_controls(told.differences[method], _score(scores, "rises"), located or {}) | found
    if method == "attention":
        reasons = {**reasons, "attention": "this is the model's own attention"}
    return {
        name: not_tested(reasons[name]) if condition.state == "not tested" and name in reasons else condition
        for name, condition in found.items()
    }


def card_of(
    method: str, told: TrustMeans, conditions: Mapping[str, Condition], columns: CaseFigures
) -> MethodCard:
    """Scores, curves and conditions of one method or control."""
    return MethodCard(
        conditions=dict(conditions),
        scores=dict(told.scores.get(method, {})),
        differences={control: dict(found) for control, found in told.differences.get(method, {}).items()},
        curves={name: tuple(columns.mean_curve(method, name)) for name in columns.curves.get(method, {})},
    )


def _against_controls(
    differences: Mapping[str, Mapping[str, Value]],
    rises: Value,
    located: Located,
) -> dict[str, Condition]:
    ways = {control: [found[name] for name in FAITHFULNESS] for control, found in differences.items()}
    measure = IN_PLANE if all(IN_PLANE in found for found in differences.values()) else "pointing_game"
    points = {
        control: [(located[control].figure(measure) if control in located else None) or found[measure]]
        for control, found in differences.items()
    }
    return {
        "faithful": beats(ways, ENOUGH, "what the score loses with the map's places"),
        "localizing": beats(
            points,
            1,
            "pointing game in the plane" if measure == IN_PLANE else "pointing game",
            fewest=FEW_PATIENTS,
        ),
        "positive": above_nought(differences["random"]["falls"], "fall of the logit beyond random places"),
        "negative": above_nought(rises, "rise of the logit"),
    }


def _score(scores: Mapping[str, Value], name: str) -> Value:
    return scores.get(name) or Value(None, None, None, 0, 0, "no figures")
