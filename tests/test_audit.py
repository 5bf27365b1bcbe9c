"""The audit: every kind of leakage, contradiction and unusable image is found, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from cohort_files import Row, picture, write_csv, write_image
from foveate.data.audit.audit import audit_cohort
from foveate.data.audit.findings import SEVERITY
from foveate.data.manifest.manifest import load_manifest
from foveate.data.splits import split_cohort
from foveate.errors import AuditStopped, InputRefused, UsageError
from foveate.evaluate.results.audit import Audit, Finding
from foveate.types import Cohort

COUNT = 24  # of two classes by turns, one patient each


class Folder:
    """A cohort without a fault, to which faults are added."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        for number in range(COUNT):
            self.add(f"c{number:02d}", picture(number), label="xy"[number % 2])

    def add(
        self, name: str, pixels: NDArray[np.uint8] | None, suffix: str = ".png", **columns: object
    ) -> None:
        if pixels is not None:
            write_image(self.path / f"{name}{suffix}", pixels)
        row: Row = {
            "case_id": name,
            "patient_id": f"p-{name}",
            "label": "x",
            "image": f"{name}{suffix}",
            "split": "",
        }
        self.rows.append(row | columns)

    def cohort(self) -> Cohort:
        return load_manifest(write_csv(self.path / "manifest.csv", self.rows))

    def audit(self) -> Audit:
        return audit_cohort(self.cohort())

    def parts(self, *parts: str) -> None:
        for number, row in enumerate(self.rows):
            row["split"] = parts[number % len(parts)]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def found(audit: Audit) -> dict[str, Finding]:
    assert len({finding.code for finding in audit.findings}) == len(audit.findings)
    return {finding.code: finding for finding in audit.findings}


class TestFindings:
    def test_nothing_where_nothing_is(self, folder: Folder) -> None:
        audit = folder.audit()
        assert audit.findings == () and audit.groups == ()
        assert (audit.cases, audit.patients) == (COUNT, COUNT)
        audit.raise_if_stopped()

    def test_patient_in_two_parts(self, folder: Folder) -> None:
        folder.parts("train", "train", "test", "test")
        folder.rows[1]["patient_id"] = folder.rows[2]["patient_id"]
        (finding,) = folder.audit().findings
        assert (finding.code, finding.case_ids) == ("patient-in-two-splits", ("c01", "c02"))
        assert "1 of 23 patients" in finding.message and "p-c02 (test, train)" in finding.message

    def test_parts_that_are_given_count_for_more(self, folder: Folder) -> None:
        folder.rows[1]["patient_id"] = folder.rows[2]["patient_id"]
        cohort = folder.cohort()
        own = split_cohort(cohort)
        assert not audit_cohort(cohort, splits=own).findings
        torn = own.model_copy(update={"folds": (own.folds[0] | {"c01": "train", "c02": "test"},)})
        assert list(found(audit_cohort(cohort, splits=torn))) == ["patient-in-two-splits"]

    @pytest.mark.slow
    @pytest.mark.parametrize("suffix", [".bmp", ".tif", ".png"])
    def test_the_same_pixels_in_another_file(self, folder: Folder, suffix: str) -> None:
        folder.add("copy", picture(3), suffix, label="y")
        audit = folder.audit()
        assert found(audit)["exact-duplicates"].groups == audit.groups == (("c03", "copy"),)
        assert list(found(audit)) == ["exact-duplicates"]
        assert "1 of them across patients" in audit.findings[0].message

    def test_grey_written_as_colour(self, folder: Folder) -> None:
        folder.add("copy", np.stack([picture(3)] * 3, axis=-1), label="y")
        assert folder.audit().findings[0].groups == (("c03", "copy"),)
        assert list(found(folder.audit())) == ["exact-duplicates"]

    @pytest.mark.parametrize(
        "change",
        [
            lambda image: np.asarray(Pillow.fromarray(image).resize((200, 150))),
            lambda image: (image * 0.7 + 30).astype(np.uint8),
            lambda image: np.ascontiguousarray(image[:, ::-1]),
            lambda image: np.ascontiguousarray(np.rot90(image)),
        ],
        ids=["resized", "paler", "mirrored", "turned"],
    )
    def test_nearly_the_same_image(
        self, folder: Folder, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
    ) -> None:
        folder.add("copy", change(picture(3)), label="y")
        audit = folder.audit()
        assert list(found(audit)) == ["near-duplicates"]
        assert audit.groups == (("c03", "copy"),)

    def test_the_same_image_compressed(self, folder: Folder) -> None:
        write_image(folder.path / "copy.jpg", picture(3), quality=30)
        folder.add("copy", None, ".jpg", label="y")
        assert list(found(folder.audit())) == ["near-duplicates"]

    def test_copies_in_two_parts_stop(self, folder: Folder) -> None:
        folder.parts("train", "train", "test", "test")
        folder.add("copy", picture(3), label="y", split="train")
        codes = found(folder.audit())
        assert list(codes) == ["duplicate-in-two-splits", "exact-duplicates"]
        assert codes["duplicate-in-two-splits"].groups == (("c03", "copy"),)
        assert "c03 = copy (test, train)" in codes["duplicate-in-two-splits"].message

    def test_copies_with_other_labels_stop(self, folder: Folder) -> None:
        folder.add("copy", picture(3), label="x")
        codes = found(folder.audit())
        assert list(codes) == ["conflicting-labels", "exact-duplicates"]
        assert "c03 = copy (x, y)" in codes["conflicting-labels"].message
        assert codes["conflicting-labels"].case_ids == ("c03", "copy")

    def test_findings_that_contradict(self, folder: Folder) -> None:
        for row in folder.rows:
            row["mass"], row["node"] = (row.pop("label") == "x") * 1, 1
        folder.rows[0]["node"] = ""
        folder.add("copy", picture(3), mass=1, node=1)
        folder.add("untold", picture(5), mass="", node="")
        for row in folder.rows:
            row.pop("label", None)
        codes = found(folder.audit())
        assert "c03 = copy (mass)" in codes["conflicting-labels"].message
        assert codes["conflicting-labels"].groups == (("c03", "copy"),)
        assert "no negative case of node" in codes["one-sided-class"].message

    def test_images_that_cannot_be_decoded(self, folder: Folder) -> None:
        whole = (folder.path / "c05.png").read_bytes()
        (folder.path / "c05.png").write_bytes(whole[: len(whole) // 2])
        (finding,) = folder.audit().findings
        assert (finding.code, finding.severity, finding.case_ids) == ("refused-image", "stop", ("c05",))

    def test_flat_and_dark_images(self, folder: Folder) -> None:
        folder.add("zero", np.zeros((64, 64), np.uint8))
        folder.add("zero2", np.zeros((64, 64), np.uint8), label="y")
        folder.add("grey", np.full((64, 64), 9, np.uint8))
        folder.add("dark", (picture(77) // 12).astype(np.uint8))
        codes = found(folder.audit())
        assert {code: finding.case_ids for code, finding in codes.items()} == {
            "empty-image": ("zero", "zero2"),
            "constant-image": ("grey",),
            "dark-image": ("dark",),
        }

    def test_rare_classes_and_one_sided_parts(self, folder: Folder) -> None:
        folder.parts("train", "train", "test")
        folder.add("rare", picture(50), label="z", split="train")
        codes = found(folder.audit())
        assert codes["rare-class"].case_ids == ("rare",) and "z (1 patient)" in codes["rare-class"].message
        assert "test (8 cases) has no positive case of z" in codes["one-sided-class"].message

    def test_patients_unknown(self, folder: Folder) -> None:
        for row in folder.rows:
            row["patient_id"] = row["case_id"]
        assert list(found(folder.audit())) == ["patients-unknown"]

    def test_grey_among_colour(self, folder: Folder) -> None:
        rgb = np.stack([picture(90 + channel) for channel in range(3)], axis=-1)
        folder.add("colour", rgb)
        assert "24 grey and 1 colour" in found(folder.audit())["mixed-colour"].message

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("code", "told"),
        [
            ("metadata-tells-label", True),
            ("names-tell-label", True),
            ("sizes-tell-label", True),
            ("sizes-tell-label", False),
        ],
    )
    def test_what_tells_the_label_without_the_picture(self, folder: Folder, code: str, told: bool) -> None:
        draws = np.random.default_rng(0)
        folder.rows.clear()
        for number in range(60):
            label, chance = "xy"[number % 2], bool(draws.integers(2))
            here = (label == "x") if told else chance
            name = f"{'us' if here and code.startswith('names') else 'im'}{draws.integers(1000):03d}-{number}"
            size = (64, 80) if here and code.startswith("sizes") else (64, 64)
            scanner = "A" if here and code.startswith("metadata") else "B"
            folder.add(name, picture(number, size), label=label, scanner=scanner, age=draws.integers(90))
        codes = found(folder.audit())
        assert list(codes) == ([code] if told else [])
        if told:
            assert codes[code].severity == "note" and "AUROC of 1.00" in codes[code].message
            source = {"names": "image: pattern", "sizes": "image: width", "metad": "scanner"}[code[:5]]
            assert source in codes[code].message

    @pytest.mark.slow
    def test_a_column_that_holds_a_split_is_no_metadata(self, folder: Folder) -> None:
        """However well it tells the label: a fold table of one class a part, as a stratified one is not."""
        folder.rows.clear()
        for number in range(60):
            label = "xy"[number % 2]
            folder.add(f"i{number}", picture(number), label=label, fold1={"x": "Train", "y": "Val"}[label])
        assert found(folder.audit()) == {}
        for row in folder.rows:
            row["fold1"] = {"Train": "here", "Val": "there"}[str(row["fold1"])]
        assert list(found(folder.audit())) == ["metadata-tells-label"]

    def test_each_code_has_a_test_here(self) -> None:
        text = Path(__file__).read_text(encoding="utf-8")
        for name in ("test_contamination.py", "test_acquisition.py", "test_init.py"):
            text += Path(__file__).with_name(name).read_text(encoding="utf-8")
        assert [code for code in SEVERITY if f'"{code}"' not in text] == []


class TestVolumes:
    def volume(self, path: Path, seed: int) -> None:
        slices = [picture(1000 * seed + n // 3, (40, 48)) // 2 + n for n in range(9)]  # neighbours are alike
        nibabel.save(nibabel.Nifti1Image(np.stack(slices).T.astype(np.int16), np.eye(4)), path)

    def rows(self, folder: Path, count: int, slices: Sequence[object]) -> list[Row]:
        for number in range(count):
            self.volume(folder / f"v{number}.nii.gz", number)
        return [
            dict(case_id=f"v{n}-{at}", patient_id=f"p{n}", label="xy"[n % 2], image=f"v{n}.nii.gz", slice=at)
            for n in range(count)
            for at in slices
        ]

    def test_neighbouring_slices_are_no_twins(self, tmp_path: Path) -> None:
        rows = self.rows(tmp_path, 20, (0, 1, 4))
        rows[1]["label"] = "y"  # another class than the slice beside it
        assert audit_cohort(load_manifest(write_csv(tmp_path / "m.csv", rows))).findings == ()

    def test_a_volume_under_another_name(self, tmp_path: Path) -> None:
        rows = self.rows(tmp_path, 20, ("", 4))
        self.volume(tmp_path / "copy.nii.gz", 3)
        rows.append({"case_id": "copy", "patient_id": "q", "label": "y", "image": "copy.nii.gz", "slice": ""})
        rows.append(
            {"case_id": "copy-5", "patient_id": "q", "label": "y", "image": "copy.nii.gz", "slice": 5}
        )
        audit = audit_cohort(load_manifest(write_csv(tmp_path / "m.csv", rows)))
        assert set(audit.groups) == {("v3-", "copy"), ("v3-4", "copy-5")}

    def test_each_file_is_read_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from foveate.data.audit import looks

        read: list[Path] = []
        original = looks.read_image

        def counting(path: Path) -> object:
            read.append(path)
            return original(path)

        monkeypatch.setattr(looks, "read_image", counting)
        audit_cohort(load_manifest(write_csv(tmp_path / "m.csv", self.rows(tmp_path, 4, (0, 3, 6)))))
        assert sorted(path.name for path in read) == [f"v{n}.nii.gz" for n in range(4)]


class TestAllowing:
    def test_a_stop_names_the_way_on(self, folder: Folder) -> None:
        folder.add("copy", picture(3), label="x")
        audit = folder.audit()
        with pytest.raises(AuditStopped, match=r"c03 = copy(.|\n)*--allow conflicting-labels") as caught:
            audit.raise_if_stopped()
        assert caught.value.exit_code == 3
        allowed = audit_cohort(folder.cohort(), allow=["conflicting-labels", "near-duplicates"])
        allowed.raise_if_stopped()
        assert allowed.allowed == ("conflicting-labels", "near-duplicates")
        accepted = {item.code: item.allowed for item in allowed.findings}
        assert accepted == {"conflicting-labels": True, "exact-duplicates": False}

    def test_unknown_codes(self, folder: Folder) -> None:
        with pytest.raises(UsageError, match="did you mean 'conflicting-labels'"):
            audit_cohort(folder.cohort(), allow=["conflicting-label"])

    def test_one_allowed_is_not_all_allowed(self, folder: Folder) -> None:
        folder.parts("train", "train", "test", "test")
        folder.add("copy", picture(3), label="x", split="train")
        audit = audit_cohort(folder.cohort(), allow=["conflicting-labels"])
        with pytest.raises(AuditStopped, match="duplicate-in-two-splits"):
            audit.raise_if_stopped()


class TestFile:
    def test_round_trip(self, folder: Folder) -> None:
        folder.parts("train", "val", "test")
        folder.add("copy", picture(3), label="x", split="val")
        audit = audit_cohort(folder.cohort(), allow=["conflicting-labels"])
        audit.write(folder.path)
        back = Audit.read(folder.path)
        assert back is not None and back.to_json() == audit.to_json()
        assert audit.manifest_sha256 == folder.cohort().manifest_sha256

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"findings": [{}], "groups": [], "allowed": []}'])
    def test_damaged_files(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "audit.json").write_text(text)
        with pytest.raises(InputRefused, match="not what `foveate audit` writes"):
            Audit.read(tmp_path)

    def test_a_file_of_0_1_0_opens(self, tmp_path: Path) -> None:
        counts = {"positive": 3, "negative": 2, "unknown": 0, "patients": 3}
        old = {
            "findings": [{"code": "rare-class", "severity": "note", "message": "x", "case_ids": ["a"]}],
            "groups": [["a", "b"]],
            "tables": {"classes": [{"class": "x", **counts}], "parts": [], "images": []},
            "allowed": [],
            "cases": 5,
            "patients": 5,
            "manifest": "m.csv",
            "manifest_sha256": "0" * 64,
        }
        (tmp_path / "audit.json").write_text(json.dumps(old))
        audit = Audit.read(tmp_path)
        assert audit is not None and audit.format == 0 and audit.codes == ("rare-class",)
        assert audit.tables.classes[0].name == "x" and audit.tables.classes[0].train is None

    def test_tables(self, folder: Folder) -> None:
        folder.parts("train", "train", "val", "test")
        folder.rows[4]["patient_id"] = folder.rows[0]["patient_id"]
        tables = folder.audit().to_json()["tables"]
        assert tables["classes"][0] == {
            "class": "x",
            "positive": 12,
            "negative": 12,
            "unknown": 0,
            "patients": 11,
            "train": 6,
            "val": 6,
            "test": 0,
        }
        assert tables["parts"][0] == {"part": "train", "cases": 12, "patients": 11}
        images = tables["images"][0]
        assert (images["view"], images["images"], images["grey"], images["colour"]) == ("image", 24, 24, 0)
        assert images["width"] == images["height"] == [64.0, 64.0, 64.0] and images["depth"] is None
        assert (images["lowest"], images["highest"]) == ([20.0] * 3, [235.0] * 3)
        json.dumps(tables, allow_nan=False)

    def test_progress_is_shown(self, folder: Folder) -> None:
        shown: list[tuple[str, int]] = []

        def track(items: Sequence[Path], what: str) -> Iterable[Path]:
            shown.append((what, len(items)))
            return items

        audit_cohort(folder.cohort(), track=track)  # type: ignore[arg-type]
        assert shown == [("Auditing images", COUNT), ("Comparing images", 1)]
