"""ACDC: short-axis cardiac cine MRI at end-diastole and end-systole, five diagnostic groups.

Layout as published: ``training/patient001/`` and ``testing/patient101/`` (or ROOT/patient001 …), each with
``Info.cfg`` (frames and group), ``patient001_frame01.nii.gz``, ``patient001_frame01_gt.nii.gz`` and the same
for the other phase.
"""

from __future__ import annotations

from pathlib import Path

from foveate.data.sources.source import DataSource, Listing, NoOptions, Row, count_labels, relative
from foveate.errors import InputRefused
from foveate.types import Track

GROUPS = ("NOR", "DCM", "HCM", "MINF", "RV")
TRAINING, TESTING = 20, 10  # patients of each group
_LAYOUT = "ROOT holds training/patient001/ … (and testing/patient101/ …), each with Info.cfg and its frames"


def read_acdc(root: Path, home: Path, options: NoOptions, track: Track) -> Listing:
    """List patients with the views ``ed`` and ``es``; the heart at end-diastole is the organ mask."""
    folders = [path for path in sorted(root.glob("**/patient[0-9][0-9][0-9]")) if path.is_dir()]
    if not folders:
        raise InputRefused("no patient folder was found", where=str(root), fix=_LAYOUT, code="layout-unknown")
    rows, problems = [], []
    for folder in track(folders, "Listing ACDC"):
        try:
            rows.append(_row(folder, home))
        except (OSError, KeyError, ValueError) as error:
            problems.append(f"{folder.name}: {error.args[0] if error.args else error}")
    parts = 1 + any(int(row["patient_id"][-3:]) > 100 for row in rows)
    each = TRAINING if parts == 1 else TRAINING + TESTING
    return Listing(
        rows=rows,
        expected={"cases": each * len(GROUPS), **{f"label {name}": each for name in GROUPS}},
        found=count_labels(rows),
        init="--label label --view ed --view es",
        problems=problems,
    )


def _row(folder: Path, home: Path) -> Row:
    facts = _facts(folder / "Info.cfg")
    if facts["Group"] not in GROUPS:
        raise ValueError(f"its group '{facts['Group']}' is none of {', '.join(GROUPS)}")
    row = {"case_id": folder.name, "patient_id": folder.name, "label": facts["Group"]}
    for phase in ("ED", "ES"):
        stem = f"{folder.name}_frame{int(facts[phase]):02d}"
        if (volume := _volume(folder, stem)) is None:
            raise ValueError(f"there is no {stem}.nii.gz")
        row[phase.lower()] = relative(volume, home)
        if phase == "ED" and (mask := _volume(folder, f"{stem}_gt")) is not None:
            row["organ_mask"] = relative(mask, home)
    return row | {"height_cm": facts.get("Height", ""), "weight_kg": facts.get("Weight", "")}


def _facts(path: Path) -> dict[str, str]:
    """``key: value`` lines; ED, ES and Group must be among them."""
    lines = path.read_text(encoding="utf-8").splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if value}
    if missing := [key for key in ("ED", "ES", "Group") if key not in facts]:
        raise ValueError(f"Info.cfg does not say {', '.join(missing)}")
    return facts


def _volume(folder: Path, stem: str) -> Path | None:
    paths = (folder / f"{stem}{suffix}" for suffix in (".nii.gz", ".nii"))
    return next((path for path in paths if path.is_file()), None)


ACDC = DataSource(
    name="acdc",
    title="ACDC: cardiac MRI of 100 (+ 50) patients at end-diastole and end-systole, five groups",
    where="the data page of its challenge at the University Hospital of Dijon (search for 'ACDC challenge')",
    licence="free for research after registration; see the terms of the download page",
    citation="Bernard et al., Deep learning techniques for automatic MRI cardiac multi-structures "
    "segmentation and diagnosis, IEEE TMI 2018",
    layout=_LAYOUT,
    traps=(
        "Groups were defined from volumes and ejection fractions: a model of the two phases re-derives the "
        "rule that made the label.",
        "Slice spacing is 5 to 10 mm against 1 to 2 mm in-plane.",
        "Masks mark right ventricle (1), myocardium (2) and left ventricle (3): the organ, not the disease.",
    ),
    read=read_acdc,
)
