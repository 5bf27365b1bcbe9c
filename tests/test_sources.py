from __future__ import annotations

import csv
import gzip
import random
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

import source_trees
from command_line import foveate
from foveate.data.manifest.manifest import load_manifest
from foveate.data.sources import SOURCES, Written, find_source, write_source
from foveate.data.sources.chestxray14 import BOX_PIXELS, COUNTS, FINDINGS
from foveate.data.sources.herlev import CLASSES as HERLEV_COUNTS
from foveate.data.sources.herlev import TRAINING_SHARES
from foveate.data.sources.lld_mmri import CLASSES, FOLDS, POOL, TEST, generated_folds
from foveate.data.sources.sipakmed import CELLS, SLIDES, authors_split
from foveate.data.sources.source import shuffled_split
from foveate.errors import InputRefused, ManifestRefused, UsageError
from foveate.io.reading import read_image, read_mask
from foveate.types import Cohort
from source_trees import pixels_of, rows_of

BOX = {"x_min": 30, "x_max": 33, "y_min": 20, "y_max": 24, "z_min": 5, "z_max": 6}
TREES: dict[str, Callable[[Path], Path]] = {
    "sipakmed": source_trees.sipakmed,
    "chestxray14": source_trees.chestxray14,
    "herlev": source_trees.herlev,
    "milk10k": source_trees.milk10k,
    "derm7pt": source_trees.derm7pt,
    "acdc": source_trees.acdc,
    "busi": source_trees.busi,
    "idrid": source_trees.idrid,
    "liver-ct": source_trees.lits,
    "lld-mmri": lambda root: source_trees.lld_regions(root, {"MR1": 0, "MR1_1": 1, "MR2": 6}),
}


MINIATURE: dict[str, dict[str, object]] = {"liver-ct": {"liver_pixels": 100, "every": 1}}


def _write(name: str, root: Path, **options: object) -> Written:
    return write_source(SOURCES[name], root, options=MINIATURE.get(name, {}) | options)


def _load(written: Written) -> Cohort:
    """Read the manifest as its own hint says."""
    words = shlex.split(written.listing.init, comments=True)
    pairs = list(zip(words[::2], words[1::2], strict=True))
    chosen = {name: [value for key, value in pairs if key == f"--{name}"] for name in ("view", "finding")}
    label = next((value for key, value in pairs if key == "--label"), None)
    return load_manifest(
        written.manifest,
        label=label,
        findings=chosen["finding"] or None,
        views=chosen["view"] or None,
        boxes=written.boxes,
    )


@pytest.mark.parametrize("name", SOURCES)
class TestEverySource:
    def test_its_manifest_is_read_as_its_own_hint_says(self, name: str, tmp_path: Path) -> None:
        written = _write(name, TREES[name](tmp_path))
        cohort = _load(written)
        assert len(cohort.cases) == len(rows_of(written.manifest)) == len(written.listing.rows) >= 3
        assert len(cohort.classes) >= 2

    def test_it_says_what_a_user_must_know(self, name: str, tmp_path: Path) -> None:
        source = SOURCES[name]
        assert source.name == name and source.traps
        assert all(len(text) > 8 for text in (source.where, source.licence, source.citation, source.layout))

    def test_a_miniature_is_not_taken_for_the_whole_set(self, name: str, tmp_path: Path) -> None:
        root = TREES[name](tmp_path)
        assert _write(name, root).listing.differences()
        with pytest.raises(ManifestRefused, match="published"):
            write_source(
                SOURCES[name], root, tmp_path / "again.csv", options=MINIATURE.get(name, {}), strict=True
            )
        assert not (tmp_path / "again.csv").exists()

    def test_another_folder_is_refused_with_the_layout(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "something").mkdir()
        with pytest.raises(InputRefused) as caught:
            _write(name, tmp_path)
        assert "ROOT" in caught.value.fix or "unpack" in caught.value.fix


def test_an_existing_manifest_is_kept_and_a_misspelt_option_named(tmp_path: Path) -> None:
    root = source_trees.busi(tmp_path)
    (tmp_path / "manifest.csv").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        _write("busi", root)
    assert (tmp_path / "manifest.csv").read_text() == "mine"
    with pytest.raises(UsageError, match="mask"):
        write_source(SOURCES["sipakmed"], root, tmp_path / "other.csv", options={"mask": "nucleus"})
    with pytest.raises(UsageError, match="'busi'"):
        find_source("busy")


class TestSipakmed:
    def test_cells_are_grouped_by_slide_and_outlined(self, tmp_path: Path) -> None:
        written = _write("sipakmed", source_trees.sipakmed(tmp_path), masks="nucleus")
        cohort = _load(written)
        groups = Counter(case.patient_id for case in cohort.cases)
        assert len(groups) == 10 and set(groups.values()) == {2}
        mask = cohort.cases[0].mask
        assert mask is not None
        expected = np.zeros((30, 20), bool)
        expected[10:20, 5:15] = True  # the outline's corners, all of them inside
        np.testing.assert_array_equal(read_mask(mask).inside, expected)

    def test_a_broken_outline_is_named_with_the_others(self, tmp_path: Path) -> None:
        root = source_trees.sipakmed(tmp_path)
        for path in sorted(root.glob("im_Parabasal/**/*_nuc.dat"))[:2]:
            path.write_text("1,2\n")
        with pytest.raises(ManifestRefused) as caught:
            _write("sipakmed", root, masks="nucleus")
        assert len(caught.value.problems) == 2

    @pytest.mark.parametrize(
        ("counts", "sizes"), [(SLIDES, (674, 191, 101)), (CELLS, (2832, 808, 409))], ids=["slides", "cells"]
    )
    def test_the_authors_split_has_the_published_sizes(
        self, counts: dict[str, int], sizes: tuple[int, int, int]
    ) -> None:
        names = [f"{index:04d}.bmp" for count in counts.values() for index in range(count)]
        labels = [label for label, count in counts.items() for _ in range(count)]
        parts = authors_split(names, labels)
        assert tuple(parts.count(part) for part in ("train", "val", "test")) == sizes
        support = Counter(label for label, part in zip(labels, parts, strict=True) if part == "test")
        published = (23, 25, 28, 12, 13) if sizes[2] == 101 else (82, 83, 80, 80, 84)
        assert tuple(support[label] for label in counts) == published

    def test_the_authors_split_parts_slides(self, tmp_path: Path) -> None:
        rows = rows_of(_write("sipakmed", source_trees.sipakmed(tmp_path), authors_split=True).manifest)
        assert {row["split"] for row in rows} == {"train", "test"}  # of 4 cells: int(2.8), int(0.8), rest
        by_slide = {}
        for row in rows:
            by_slide.setdefault(row["patient_id"], set()).add(row["split"])
        assert max(map(len, by_slide.values())) == 2

    def test_the_authors_split_of_slide_images_parts_no_slide(self, tmp_path: Path) -> None:
        written = _write("sipakmed", source_trees.sipakmed(tmp_path), images="slides", authors_split=True)
        cohort = _load(written)
        assert len({case.patient_id for case in cohort.cases}) == len(cohort.cases) == 10
        assert {case.split for case in cohort.cases} == {"train", "test"} and not written.listing.notes
        assert "split: {column: split}" in written.listing.init


class TestHerlev:
    def test_the_authors_splits_have_the_published_sizes(self) -> None:
        """Supports of the test table on the results page; what is said beside it, 1:9, makes others."""
        names = [f"{index:04d}.BMP" for count in HERLEV_COUNTS.values() for index in range(count)]
        labels = [label for label, count in HERLEV_COUNTS.items() for _ in range(count)]
        published = {"carcinoma_in_situ": 120, "light_dysplastic": 146, "moderate_dysplastic": 117}
        published |= {"normal_columnar": 79, "normal_intermediate": 56, "normal_superficiel": 60}
        published |= {"severe_dysplastic": 158}
        share = TRAINING_SHARES["script"]
        parts = shuffled_split(names, labels, {"train": share}, "test", seed=230)
        support = Counter(label for label, part in zip(labels, parts, strict=True) if part == "test")
        assert support == published and support.total() == 736
        stated = shuffled_split(names, labels, {"train": TRAINING_SHARES["stated"]}, "test", seed=230)
        assert stated.count("test") == 917 - 89

    def test_a_split_is_the_shuffle_of_each_class_by_the_same_seed(self) -> None:
        names, labels = [*"dbca", *"zyx"], [*"1111", *"222"]
        one, two = sorted("dbca"), sorted("zyx")
        random.Random(230).shuffle(one)
        random.Random(230).shuffle(two)
        expected = {one[0]: "train", one[1]: "train", one[2]: "val", two[0]: "train"}
        found = shuffled_split(names, labels, {"train": 0.5, "val": 0.25}, "test", seed=230)
        assert found == [expected.get(name, "test") for name in names]

    @pytest.mark.parametrize(("asked", "trained"), [("none", None), ("script", 1), ("stated", 0)])
    def test_the_split_is_filled_in_where_it_is_asked_for(
        self, asked: str, trained: int | None, tmp_path: Path
    ) -> None:
        root = source_trees.herlev(tmp_path, each=5)
        rows = rows_of(_write("herlev", root, authors_split=asked).manifest)
        assert len(rows) == 35
        if trained is None:
            assert "split" not in rows[0]
            return
        by_class = Counter((row["label"], row["split"]) for row in rows)
        assert all(by_class[label, "train"] == trained for label in HERLEV_COUNTS)
        assert set(row["split"] for row in rows) == ({"train", "test"} if trained else {"test"})


class TestChestXray14:
    def test_findings_parts_and_boxes(self, tmp_path: Path) -> None:
        written = _write("chestxray14", source_trees.chestxray14(tmp_path), val=0.5)
        cohort = _load(written)
        first, *_ = cohort.cases
        assert cohort.task == "multilabel" and cohort.classes == tuple(FINDINGS)
        assert {name for name, value in first.findings.items() if value} == {"Cardiomegaly", "Effusion"}
        assert [case.split for case in cohort.cases[3:]] == ["test", "test"]
        assert Counter(case.split for case in cohort.cases[:3])["val"] in (1, 2)
        assert cohort.cases[0].split == cohort.cases[1].split  # one patient
        (box,) = next(case for case in cohort.cases if case.case_id == "00000003_000").boxes
        # the published box is in 1024 × 1024 pixels, this image has 64 rows and 128 columns
        assert box.label == "Infiltration" and box.xywh == (32, 32, 16, 4)

    def test_a_missing_image_is_a_problem_unless_only_what_is_there_counts(self, tmp_path: Path) -> None:
        root = source_trees.chestxray14(tmp_path)
        (root / "images_001" / "images" / "00000001_000.png").unlink()
        with pytest.raises(ManifestRefused, match="00000001_000"):
            _write("chestxray14", root)
        written = write_source(SOURCES["chestxray14"], root, options={"only_present": True})
        assert len(written.listing.rows) == 4

    def test_the_published_counts_are_those_of_the_official_tables(self, real_data: Path) -> None:
        folder = real_data / "nih_labels"
        if not folder.is_dir():
            pytest.skip("the official tables of ChestX-ray14 are not here")
        with gzip.open(folder / "Data_Entry_2017_v2020.csv.gz", "rt") as stream:
            rows = list(csv.DictReader(stream))
        found = Counter(label for row in rows for label in row["Finding Labels"].split("|"))
        assert {name: found[name] for name in FINDINGS} == FINDINGS
        assert len(rows) == COUNTS["cases"]
        assert len({row["Patient ID"] for row in rows}) == COUNTS["patients"]
        lists = {name: (folder / f"{name}_list.txt").read_text().split() for name in ("train_val", "test")}
        assert (len(lists["train_val"]), len(lists["test"])) == (COUNTS["train + val"], COUNTS["test"])
        with gzip.open(folder / "BBox_List_2017.csv.gz", "rt") as stream:
            boxes = list(csv.reader(stream))[1:]
        assert len(boxes) == COUNTS["boxes"]
        assert max(float(x) + float(w) for _, _, x, _, w, *_ in boxes) <= BOX_PIXELS


class TestBusi:
    def test_several_masks_become_one(self, tmp_path: Path) -> None:
        rows = {row["case_id"]: row for row in rows_of(_write("busi", source_trees.busi(tmp_path)).manifest)}
        assert rows["benign (1)"]["mask"] == "benign/benign (1)_mask.png"
        assert rows["normal (1)"]["mask"] == ""
        merged = pixels_of(tmp_path / rows["benign (2)"]["mask"]) > 0
        assert merged.sum() == 25 + 50 and merged[7, 7] and merged[32, 45]

    def test_masks_of_two_sizes_are_named(self, tmp_path: Path) -> None:
        root = source_trees.busi(tmp_path)
        source_trees.write_image(root / "benign" / "benign (2)_mask_1.png", np.zeros((4, 4), np.uint8))
        with pytest.raises(ManifestRefused, match=r"benign \(2\)"):
            _write("busi", root)


class TestPairs:
    def test_milk10k_views_and_a_lost_image(self, tmp_path: Path) -> None:
        root = source_trees.milk10k(tmp_path)
        cohort = _load(_write("milk10k", root))
        assert cohort.view_names == ("clinical", "dermoscopic")
        assert [case.label for case in cohort.cases] == ["MEL", "BCC", "NV"]
        assert cohort.cases[1].views["dermoscopic"].name == "ISIC_0000003.jpg"
        cohort.cases[1].views["dermoscopic"].unlink()
        with pytest.raises(ManifestRefused, match="ISIC_0000003"):
            write_source(SOURCES["milk10k"], root, tmp_path / "again.csv")

    def test_derm7pt_lists_hold_rows_and_diagnoses_are_grouped(self, tmp_path: Path) -> None:
        cohort = _load(_write("derm7pt", source_trees.derm7pt(tmp_path)))
        assert [case.split for case in cohort.cases] == ["train", "val", "test", "train"]
        labels = ["melanoma", "nevus", "miscellaneous", "basal cell carcinoma"]
        assert [case.label for case in cohort.cases] == labels


class TestVolumes:
    def test_acdc_phases_and_an_unknown_group(self, tmp_path: Path) -> None:
        root = source_trees.acdc(tmp_path)
        cohort = _load(_write("acdc", root))
        assert cohort.view_names == ("ed", "es")
        assert cohort.cases[0].views["es"].name == "patient001_frame12.nii.gz"
        assert cohort.cases[0].organ_mask is not None
        (root / "training" / "patient002" / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: XXX\n")
        (root / "training" / "patient003" / "Info.cfg").write_text("ED: 1\n")
        with pytest.raises(ManifestRefused) as caught:
            write_source(SOURCES["acdc"], root, tmp_path / "again.csv")
        assert len(caught.value.problems) == 2

    @pytest.mark.parametrize("tree", [source_trees.lits, source_trees.msd])
    def test_liver_slices_say_whether_they_show_a_tumour(
        self, tree: Callable[[Path], Path], tmp_path: Path
    ) -> None:
        written = _write("liver-ct", tree(tmp_path), every=1, liver_pixels=100)
        rows = rows_of(written.manifest)
        assert [row["slice"] for row in rows] == ["1", "2", "3", "4", "5", "6"] * 2
        assert [row["label"] == "lesion" for row in rows] == [False, False, True, True] + [False] * 8
        cohort = _load(written)
        lesion = cohort.cases[2]
        assert lesion.mask is not None and lesion.organ_mask is not None
        mask = read_mask(lesion.mask).inside
        assert mask.shape == (8, 36, 40) and mask[3].sum() == 80 and not mask[2].any()
        assert read_mask(lesion.organ_mask).inside[3].sum() == 30 * 25


class TestIdrid:
    def test_grades_of_both_parts_keep_apart(self, tmp_path: Path) -> None:
        cohort = _load(_write("idrid", source_trees.idrid(tmp_path)))
        assert [case.case_id for case in cohort.cases] == [
            "train_IDRiD_001", "train_IDRiD_002", "test_IDRiD_001", "test_IDRiD_002",
        ]  # fmt: skip
        assert [case.label for case in cohort.cases] == ["grade 3", "grade 0"] * 2

    def test_a_lesion_and_its_mask(self, tmp_path: Path) -> None:
        rows = rows_of(
            _write("idrid", source_trees.idrid(tmp_path), part="segmentation", lesion="SE").manifest
        )
        assert [row["label"] for row in rows] == ["SE", "no SE"] * 2
        assert rows[0]["mask"].endswith("IDRiD_01_SE.tif") and rows[1]["mask"] == ""


class TestLldMmri:
    def test_a_region_is_cut_with_its_place(self, tmp_path: Path) -> None:
        root = source_trees.lld_volumes(tmp_path, {"MR1": [BOX], "MR2": [BOX, BOX | {"z_max": 40}]})
        written = _write("lld-mmri", root)
        assert [row["case_id"] for row in written.listing.rows] == ["MR1", "MR2"]
        assert sum("MR2_1" in note for note in written.listing.notes) == 8
        case = _load(written).cases[0]
        assert case.label == "hemangioma" and len(case.views) == 8
        region = read_image(case.views["c_arterial"])
        # z 5–6 ± 2, y 20–24 ± 16, x 30–33 ± 16, all inside (12, 50, 60)
        assert region.pixels.shape == (1, 6, 37, 36)
        assert region.pixels[0, 0, 0, 0] == 14 + 100 * 4 + 10_000 * 3
        affine = nibabel.load(case.views["c_arterial"]).affine
        np.testing.assert_allclose(affine[:3, 3], [14 * 1.5, 4 * 1.2, 3 * 3.0])

    @pytest.mark.parametrize(("variant", "zeros"), [("corrected", 6), ("paper", 16)])
    def test_at_the_right_border_the_published_script_tests_the_wrong_axis(
        self, tmp_path: Path, variant: str, zeros: int
    ) -> None:
        """x 46–49 ± 16 is 30 … 65: six columns lie outside the 60. The script compares with the 50 rows: it
        takes x below 50 (20 columns) and pads 16."""
        box = BOX | {"x_min": 46, "x_max": 49}
        root = source_trees.lld_volumes(tmp_path, {"MR1": [box], "MR2": [BOX, BOX]})
        case = dict(_load(_write("lld-mmri", root, variant=variant)).cases[0].views)
        row = read_image(case["t2"]).pixels[0, 0, 0]
        assert len(row) == 36 and (row == 0).sum() == zeros
        assert row[0] == 30 + 100 * 4 + 10_000 * 3

    def test_lesions_of_one_patient_stay_together(self, tmp_path: Path) -> None:
        cohort = _load(_write("lld-mmri", TREES["lld-mmri"](tmp_path)))
        assert [case.patient_id for case in cohort.cases] == ["MR1", "MR1", "MR2"]
        assert [case.label for case in cohort.cases] == ["hemangioma", "ICC", "HCC"]

    def test_lca_db_split_table(self, tmp_path: Path) -> None:
        root = TREES["lld-mmri"](tmp_path)
        (root / "fold.csv").write_bytes(
            b"lesion_classifier,dataset,label\r\nMR1,Train,0\r\nMR1_1,Val,1\r\nMR2,test,6\r\n"
        )
        cohort = _load(_write("lld-mmri", root, split="table", table="fold.csv"))
        assert [case.split for case in cohort.cases] == ["train", "val", "test"]
        (root / "fold.csv").write_text("lesion_classifier,dataset,label\nMR1,Train,0\n")
        with pytest.raises(ManifestRefused) as caught:
            write_source(
                SOURCES["lld-mmri"], root, root / "b.csv", options={"split": "table", "table": "fold.csv"}
            )
        assert len(caught.value.problems) == 2

    def test_lca_db_folder_of_tables(self, tmp_path: Path) -> None:
        """As published: two of three cases change places between the folds, the third is in test.csv."""
        root = TREES["lld-mmri"](tmp_path)
        folds = [
            {"MR1": ("Train", 0), "MR1_1": ("Val", 1)},
            {"MR1": ("Val", 0), "MR1_1": ("Train", 1)},
        ]
        source_trees.lld_tables(root / "tables", folds, {"MR2": 6})
        written = _write("lld-mmri", root, split="table", table="tables")
        parts = [(case.metadata["fold1"], case.metadata["fold2"]) for case in _load(written).cases]
        assert parts == [("train", "val"), ("val", "train"), ("test", "test")]
        assert written.listing.init.endswith("# then split: {column: [fold1, fold2]}")
        written.manifest.unlink()
        cohort = _load(_write("lld-mmri", root, split="table", table="tables/fold2.csv"))
        assert [case.split for case in cohort.cases] == ["val", "train", "test"]

    @pytest.mark.parametrize(
        ("fold", "test", "problem"),
        [
            (
                {"MR1": ("Train", 0), "MR1_1": ("Val", 2)},
                {"MR2": 6},
                "MR1_1: abscess in fold1.csv, ICC in the",
            ),
            (
                {"MR1": ("Train", 0), "MR1_1": ("Val", 1)},
                {"MR2": 6, "MR1": 0},
                "MR1: train in fold1.csv, test",
            ),
            ({"MR1": ("Train", 0)}, {"MR2": 6}, "MR1_1: the column fold1 does not name it"),
        ],
        ids=["label", "both", "missing"],
    )
    def test_tables_that_disagree_are_refused(
        self, fold: dict[str, tuple[str, int]], test: dict[str, int], problem: str, tmp_path: Path
    ) -> None:
        root = TREES["lld-mmri"](tmp_path)
        source_trees.lld_tables(root, [fold], test)
        with pytest.raises(ManifestRefused) as caught:
            _write("lld-mmri", root, split="table", table=".")
        assert any(text.startswith(problem) for text in caught.value.problems)

    def test_cases_of_a_table_that_are_not_here_are_told(self, tmp_path: Path) -> None:
        root = TREES["lld-mmri"](tmp_path)
        fold = {"MR1": ("Train", 0), "MR1_1": ("Val", 1), "MR9": ("Train", 3)}
        source_trees.lld_tables(root / "tables", [fold], {"MR2": 6})
        written = _write("lld-mmri", root, split="table", table="tables")
        assert written.listing.notes == ["fold1.csv: 1 of its cases are not in this folder"]

    def test_benign_or_malignant(self, tmp_path: Path) -> None:
        root = source_trees.lld_regions(tmp_path, {f"MR{number}": number for number in range(7)})
        written = _write("lld-mmri", root, task="malignancy")
        labels = [case.label for case in _load(written).cases]
        assert [number for number, label in enumerate(labels) if label == "malignant"] == [1, 3, 6]
        assert [number for number, label in enumerate(labels) if label == "benign"] == [0, 2, 4, 5]
        assert written.listing.expected == {
            "cases": 498,
            "label benign": 79 + 54 + 53 + 46,
            "label malignant": 58 + 51 + 157,
        }

    def test_the_fold_generator_gives_the_published_sizes(self) -> None:
        labels = [name for name, count in zip(CLASSES, POOL, strict=True) for _ in range(count)]
        cases = [f"MR{index}" for index in range(len(labels))]
        folds = generated_folds(cases, labels)
        assert len(labels) == 394 and sum(TEST) == 104 and len(folds) == FOLDS
        assert sorted(case for fold in folds for case in fold) == sorted(cases)
        for name, count in zip(CLASSES, POOL, strict=True):
            own = [sum(labels[cases.index(case)] == name for case in fold) for fold in folds]
            assert own == [count // 5 + (index < count % 5) for index in range(5)]


def test_the_page_of_data_sets_names_each_with_its_options() -> None:
    text = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text(encoding="utf-8")
    for name, source in SOURCES.items():
        assert f"## {name}" in text
        section = text.split(f"## {name}\n")[1].split("\n## ")[0]
        assert all(f"`{option}" in section for option in source.options.model_fields)
        assert all(trap.split(":")[0].split(".")[0] in section.replace("\n", " ") for trap in source.traps)


@pytest.mark.slow
def test_command_line(tmp_path: Path) -> None:
    root = source_trees.sipakmed(tmp_path)
    listed = foveate("sources")
    assert listed.code == 0 and all(name in listed.out for name in SOURCES)
    written = foveate("source", "sipakmed", str(root), "--option", "masks=nucleus")
    assert written.code == 0, written.err
    assert "4049 published" in written.out and "foveate init" in written.out
    assert len(rows_of(root / "manifest.csv")) == 20
    assert foveate("source", "sipakmed", str(root)).code == 2
    assert foveate("source", "nonsense", str(root)).code == 2
