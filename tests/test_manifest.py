"""The manifest: what is read, and that every problem is named with its row."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from cohort_files import good, image_folder, picture, problems, rows, write_csv, write_image
from foveate.data.manifest.manifest import load_manifest
from foveate.data.manifest.rows import read_table
from foveate.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return image_folder(tmp_path)


class TestReading:
    def test_one_label_per_case(self, folder: Path) -> None:
        cohort = load_manifest(write_csv(folder / "m.csv", [row | {"age": 7} for row in good()]))
        assert (cohort.task, cohort.classes, cohort.view_names) == ("multiclass", ("x", "y"), ("image",))
        first = cohort.cases[0]
        assert (first.case_id, first.patient_id, first.label, first.row) == ("ca", "pa", "x", 2)
        assert first.views == {"image": folder / "a.png"}
        assert first.metadata == {"age": "7"}
        assert cohort.manifest_sha256 == read_table(folder / "m.csv").sha256

    def test_findings_of_three_values(self, folder: Path) -> None:
        columns = ("patient_id", "image", "mass", "node", "age")
        values = (("a", "a.png", 1, 0, 50), ("b", "b.png", "", "1.0", 61), ("c", "c.png", 0, "", 1))
        content = [dict(zip(columns, cells, strict=True)) for cells in values]
        cohort = load_manifest(write_csv(folder / "m.csv", content))
        assert (cohort.task, cohort.classes) == ("multilabel", ("mass", "node"))
        assert [dict(case.findings) for case in cohort.cases] == [
            {"mass": 1, "node": 0},
            {"mass": None, "node": 1},
            {"mass": 0, "node": None},
        ]
        assert [case.case_id for case in cohort.cases] == ["a", "b", "c"]  # from the image's path

    def test_two_views_one_of_them_missing(self, folder: Path) -> None:
        content = [row | {"t2": other} for row, other in zip(good(3), ("d.png", "", "e.png"), strict=True)]
        cohort = load_manifest(write_csv(folder / "m.csv", content))
        assert cohort.view_names == ("image", "t2")
        assert [sorted(case.views) for case in cohort.cases] == [["image", "t2"], ["image"], ["image", "t2"]]

    def test_what_spreadsheets_write(self, folder: Path) -> None:
        write_image(folder / "größe ä.png", picture(9))
        text = (
            "\ufeffcase_id;patient_id;label;image;note\r\n"
            "\r\n"
            'c1;"p;1";x;a.png;"two\r\nlines"\r\n'
            ";;;;\r\n"
            " c2 ;p2; y ;größe ä.png;\r\n"
        )
        (folder / "m.csv").write_bytes(text.encode())
        first, second = load_manifest(folder / "m.csv").cases
        assert (first.row, first.patient_id, first.metadata["note"]) == (3, "p;1", "two\r\nlines")
        assert (second.row, second.case_id, second.label) == (6, "c2", "y")
        assert second.views["image"].is_file()

    @pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;"])
    def test_the_line_in_which_spreadsheets_name_the_separator(self, folder: Path, first: str) -> None:
        text = f"\ufeff{first}\r\ncase_id;patient_id;label;image\r\nc1;p1;x;a.png\r\nc2;p2;y;b.png\r\n"
        (folder / "m.csv").write_text(text)
        assert [case.row for case in load_manifest(folder / "m.csv").cases] == [3, 4]

    @pytest.mark.parametrize("mark", [",", ";", "\t"])
    def test_separators(self, folder: Path, mark: str) -> None:
        text = "\n".join(mark.join(str(value) for value in row.values()) for row in good())
        (folder / "m.csv").write_text(mark.join(good()[0]) + "\n" + text)
        assert [case.label for case in load_manifest(folder / "m.csv").cases] == ["x", "y", "x", "y"]

    def test_windows_paths_and_unnamed_index_column(self, folder: Path) -> None:
        write_image(folder / "deep" / "g.png", picture(7))
        content = [{"": number, **row} for number, row in enumerate(good(3))]
        content[2]["image"] = "deep\\g.png"
        cohort = load_manifest(write_csv(folder / "m.csv", content))
        assert cohort.cases[2].views["image"] == folder / "deep" / "g.png"
        assert cohort.cases[0].metadata == {}

    def test_classes_are_sorted_by_their_numbers(self, folder: Path) -> None:
        content = [
            row | {"label": label}
            for row, label in zip(good(4), ("stage 10", "stage 2", "b", "stage 2"), strict=True)
        ]
        assert load_manifest(write_csv(folder / "m.csv", content)).classes == ("b", "stage 2", "stage 10")
        assert load_manifest(folder / "m.csv", classes=["stage 10", "stage 2", "b", "a"]).classes[3] == "a"

    def test_names_from_paths_stay_unique(self, folder: Path) -> None:
        write_image(folder / "a.bmp", picture(8))
        content = [
            {"image": name, "label": label, "p": label}
            for name, label in (("a.png", "x"), ("a.bmp", "y"), ("b.png", "y"))
        ]
        cohort = load_manifest(write_csv(folder / "m.csv", content), patient="p")
        assert [case.case_id for case in cohort.cases] == ["a.png", "a.bmp", "b"]

    def test_root_elsewhere(self, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        path = write_csv(tmp_path_factory.mktemp("study") / "m.csv", good())
        assert load_manifest(path, root=folder).cases[0].views["image"] == folder / "a.png"

    def test_progress_is_shown(self, folder: Path) -> None:
        shown: list[tuple[str, int]] = []

        def track(items: Sequence[str], what: str) -> Iterable[str]:
            shown.append((what, len(items)))
            return items

        load_manifest(write_csv(folder / "m.csv", good()), track=track)  # type: ignore[arg-type]
        assert shown == [("Checking files", 4)]


class TestColumns:
    def test_other_names(self, folder: Path) -> None:
        content = [
            {
                "file": row["image"],
                "diagnosis": row["label"],
                "slide": row["patient_id"],
                "id": row["case_id"],
            }
            for row in good()
        ]
        cohort = load_manifest(
            write_csv(folder / "m.csv", content),
            label="diagnosis",
            patient="slide",
            case="id",
            views=["file"],
        )
        assert (cohort.classes, cohort.view_names) == (("x", "y"), ("file",))
        assert (cohort.cases[1].case_id, cohort.cases[1].patient_id) == ("cb", "pb")

    def test_a_column_of_names_without_files_is_no_view(self, folder: Path) -> None:
        content = [row | {"original": f"{index:08d}.png"} for index, row in enumerate(good())]
        cohort = load_manifest(write_csv(folder / "m.csv", content))
        assert cohort.view_names == ("image",)
        assert cohort.cases[0].metadata["original"] == "00000000.png"

    def test_the_image_may_name_case_and_patient(self, folder: Path) -> None:
        content = [{"image": row["image"], "label": row["label"]} for row in good()]
        cohort = load_manifest(write_csv(folder / "m.csv", content), case="image", patient="image")
        assert (cohort.view_names, cohort.cases[0].case_id, cohort.cases[0].patient_id) == (
            ("image",),
            "a.png",
            "a.png",
        )

    def test_every_case_its_own_patient_must_be_said(self, folder: Path) -> None:
        content = [{key: value for key, value in row.items() if key != "patient_id"} for row in good()]
        assert "no column 'patient_id'" in problems(folder, content)[0]
        cohort = load_manifest(folder / "manifest.csv", patient="case_id")
        assert all(case.patient_id == case.case_id for case in cohort.cases)

    @pytest.mark.parametrize(
        "options",
        [
            {"label": "lable"},
            {"patient": "lable"},
            {"case": "lable"},
            {"views": ["lable"]},
            {"findings": ["lable"]},
        ],
    )
    def test_named_columns_must_exist(self, folder: Path, options: dict[str, object]) -> None:
        path = write_csv(folder / "m.csv", good())
        with pytest.raises(UsageError, match=r"no column 'lable'(.|\n)*did you mean 'label'"):
            load_manifest(path, **options)  # type: ignore[arg-type]

    def test_label_and_findings_together(self, folder: Path) -> None:
        content = [row | {"mass": index % 2, "always": 1} for index, row in enumerate(good())]
        found = problems(folder, content)
        assert len(found) == 1 and "mixed" in found[0] and "mass" in found[0] and "always" not in found[0]
        assert load_manifest(folder / "manifest.csv", label="label").cases[1].metadata["mass"] == "1"
        assert load_manifest(folder / "manifest.csv", findings=["mass"]).classes == ("mass",)
        with pytest.raises(UsageError, match="not both"):
            load_manifest(folder / "manifest.csv", label="label", findings=["mass"])

    def test_nothing_to_learn(self, folder: Path) -> None:
        found = problems(folder, [{"patient_id": 1, "image": "a.png"}, {"patient_id": 2, "image": "b.png"}])
        assert "no column 'label'" in found[0]
        assert "nothing to tell apart" in problems(folder, [row | {"label": "x"} for row in good()])[0]
        assert "empty in every row" in problems(folder, [row | {"label": ""} for row in good()])[0]

    def test_no_images(self, folder: Path) -> None:
        assert "no column holds paths" in problems(folder, "case_id,patient_id,label\n1,1,x\n2,2,y\n")[0]


class TestProblems:
    def test_all_in_one_pass_with_their_rows(self, folder: Path) -> None:
        text = (
            "case_id,patient_id,label,image,note\n"  # 1
            'c1,p1,x,a.png,"a note\nof two lines"\n'  # 2, 3
            "c2,p2,y,gone.png,\n"  # 4
            "\n"
            "c3,,x,b.png,\n"  # 6
            "c4,p4,,c.png,\n"  # 7
            "c5,p5,y,text.png,\n"  # 8
            'c1,p1,x,a.png,"a note\nof two lines"\n'  # 9, 10
            "c1,p1,y,d.png,\n"  # 11
            "c7,p7,y,a.png,\n"  # 12
            "c8,p8,x,../a.png,\n"  # 13
            "c9,p9,x\n"  # 14
            "c10,p10,X,e.png,\n"  # 15
            ",p11,x,f.png,\n"  # 16
            "c12,p12,x,,\n"  # 17
        )
        found = problems(folder, text)
        expected = [
            (4, "no file 'gone.png'"),
            (6, "patient_id is empty"),
            (7, "label is empty"),
            (8, "'text.png' cannot be used"),
            (9, "repeats row 2"),
            (11, "'c1' is already in row 2, with another truth: 'x' and 'y'"),
            (12, "same image as row 2, with another truth: 'x' and 'y'"),
            (13, "leads out of the folder"),
            (14, "has 3 fields, but the header names 5"),
            (15, "'X' is elsewhere written 'x'"),
            (16, "case_id is empty"),
            (17, "no image"),
        ]
        assert len(found) == len(expected)
        for problem, (row, text) in zip(found, expected, strict=True):
            assert problem.startswith(f"row {row}: ") and text in problem

    @pytest.mark.parametrize("first, second", [(1, 0), (0, 1)])
    def test_findings_that_contradict(self, folder: Path, first: int, second: int) -> None:
        content: list[Row] = [
            {"patient_id": 1, "image": "a.png", "mass": first, "node": ""},
            {"patient_id": 2, "image": "./a.png", "mass": second, "node": 1},
            {"patient_id": 2, "image": "b.png", "mass": 0, "node": 0},
        ]
        (found,) = problems(folder, content)
        assert found == f"row 3: shows the same image as row 2, with another truth: mass {first} and {second}"

    def test_unknown_contradicts_nothing(self, folder: Path) -> None:
        content = [
            {"patient_id": 1, "image": "a.png", "mass": 1},
            {"patient_id": 2, "image": "./a.png", "mass": ""},
        ]
        assert (
            len(
                load_manifest(
                    write_csv(folder / "m.csv", [*content, {"patient_id": 3, "image": "b.png", "mass": 0}])
                ).cases
            )
            == 3
        )

    def test_findings_of_other_words(self, folder: Path) -> None:
        content = [
            {"patient_id": name, "image": f"{name}.png", "mass": value}
            for name, value in zip("abcd", ("1", "some", "2", "0"), strict=True)
        ]
        found = problems(folder, content, findings=["mass"])
        assert [text.split(":")[0] for text in found] == ["row 3", "row 4"]
        assert "'some'" in found[0] and "'2'" in found[1]

    def test_labels_that_are_not_declared(self, folder: Path) -> None:
        content = [
            row | {"label": label}
            for row, label in zip(good(), ("benign", "malignant", "bening", "benign"), strict=True)
        ]
        (found,) = problems(folder, content, classes=["benign", "malignant"])
        assert found == "row 4: unknown label 'bening': did you mean 'benign'?"

    def test_a_column_of_missing_files_is_one_problem(self, folder: Path) -> None:
        (found,) = problems(folder, [row | {"image": f"x/{row['image']}"} for row in good()])
        assert (
            found.startswith("row 2: image: none of the 4 files of this column exists")
            and "'x/a.png'" in found
        )
        assert found.endswith("write 'a.png' if that is meant")

    def test_names_without_folder_and_ending(self, folder: Path) -> None:
        for number, name in enumerate(("i1", "i2", "i3")):
            write_image(folder / "images" / f"{name}.jpg", picture(number))
            write_image(folder / "masks" / "soft exudates" / f"{name}.png", picture(number))
        content = [{"Image name": f"i{n}", "grade": n % 2, "age": 50 + n} for n in (1, 2, 3)]
        found = problems(folder, content)
        assert "(--patient COLUMN)" in found[0] and "(--patient case_id)" in found[0]
        assert "(--view COLUMN)" in found[1]
        assert "'Image name' names files, but write 'images/i1.jpg' in place of 'i1'" in found[1]
        told = problems(folder, [*content, *content], views=["Image name"], label="grade", patient="case_id")
        assert told[0].endswith("the first is 'i1'; write 'images/i1.jpg' if that is meant")

    def test_what_holds_no_truth_lists_the_columns(self, folder: Path) -> None:
        content = [
            {"patient_id": n, "file": f"{n}.png", "grade": g} for n, g in zip("abc", (0, 2, 3), strict=True)
        ]
        (found,) = problems(folder, content)
        assert "(--label COLUMN," in found and found.endswith("the columns are: patient_id, file, grade")

    @pytest.mark.parametrize("text", ["../{name}/z.png", "{folder}/z.png", "link.png", "there/z.png"])
    def test_paths_out_of_the_root(
        self, folder: Path, tmp_path_factory: pytest.TempPathFactory, text: str
    ) -> None:
        outside = tmp_path_factory.mktemp("outside")
        write_image(outside / "z.png", picture(9))
        (folder / "link.png").symlink_to(outside / "z.png")
        (folder / "there").symlink_to(outside)
        named = text.format(name=outside.name, folder=outside)
        (found,) = problems(folder, [*good(3), *rows(("cz", "pz", "y", named))])
        assert found.startswith("row 5: image: ") and "leads out of the folder" in found
        assert len(load_manifest(folder / "manifest.csv", follow_outside=True).cases) == 4

    def test_paths_that_only_look_outside(self, folder: Path) -> None:
        (folder / "inner").mkdir()
        content = rows(("1", "1", "x", "inner/../a.png"), ("2", "2", "y", str(folder / "b.png")))
        assert len(load_manifest(write_csv(folder / "m.csv", content)).cases) == 2

    def test_files_that_are_no_files(self, folder: Path) -> None:
        (folder / "empty.png").touch()
        (folder / "loop.png").symlink_to("loop.png")
        (folder / "hollow").mkdir()
        names = ("empty.png", "loop.png", "hollow", "n" * 5000 + ".png")
        content = [*good(2), *rows(*((name[:5], name[:5], "x", name) for name in names))]
        found = problems(folder, content)
        assert [text.split(":")[0] for text in found] == ["row 4", "row 5", "row 6", "row 7"]

    def test_masks_must_fit(self, folder: Path) -> None:
        write_image(folder / "m" / "fits.png", picture(1, (48, 64)))
        write_image(folder / "m" / "turned.png", picture(1, (64, 48)))
        content = [
            row | {"mask": mask}
            for row, mask in zip(good(3), ("m/fits.png", "m/turned.png", ""), strict=True)
        ]
        (found,) = problems(folder, content)
        assert found == "row 3: mask is 48 × 64 pixels, but its image is 64 × 48"

    def test_parts(self, folder: Path) -> None:
        content = [
            row | {"split": split}
            for row, split in zip(good(), ("Training", "valid", "holdout", "fold1"), strict=True)
        ]
        (found,) = problems(folder, content)
        assert found.startswith("row 5: split is 'fold1'")
        content[3]["split"] = ""
        assert [case.split for case in load_manifest(write_csv(folder / "m.csv", content)).cases] == [
            "train",
            "val",
            "test",
            None,
        ]


class TestRealData:
    def test_sipakmed(self, real_data: Path) -> None:
        cohort = load_manifest(real_data / "sipakmed" / "labels.csv", patient="slide_image")
        assert (len(cohort.cases), len(cohort.classes), cohort.view_names) == (3047, 5, ("path",))
        assert len({case.patient_id for case in cohort.cases}) == 722

    def test_busi(self, real_data: Path) -> None:
        cohort = load_manifest(real_data / "busi" / "labels.csv", patient="near_dup_group")
        assert (len(cohort.cases), cohort.classes) == (576, ("benign", "malignant", "normal"))
        assert all(case.mask is not None for case in cohort.cases)

    def test_nih(self, real_data: Path) -> None:
        started = time.perf_counter()
        cohort = load_manifest(real_data / "nih_cxr14_1000" / "labels.csv")
        assert time.perf_counter() - started < 10
        assert (len(cohort.cases), cohort.task, len(cohort.classes)) == (757, "multilabel", 14)
        assert cohort.cases[0].metadata["official_split"] == "train_val"

    def test_pairs(self, real_data: Path) -> None:
        cohort = load_manifest(
            real_data / "milk10k_pairs" / "labels.csv", case="lesion_id", patient="lesion_id"
        )
        assert cohort.view_names == ("clinical", "dermoscopic")
        assert all(len(case.views) == 2 for case in cohort.cases)
