"""Miniatures of public data sets in their official layouts, written at test time."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cohort_files import picture, write_csv, write_image
from foveate.data.sources.chestxray14 import FINDINGS
from foveate.data.sources.herlev import CLASSES as HERLEV
from foveate.data.sources.idrid import LESIONS, PARTS, TABLES
from foveate.data.sources.lld_mmri import PHASES
from foveate.data.sources.sipakmed import CLASSES as SIPAKMED
from foveate.data.sources.skin_pairs import MILK_CLASSES


def write_volume(path: Path, values: NDArray[np.float32], spacing: tuple[float, ...] = (1, 1, 1)) -> Path:
    """Write ``(x, y, z)`` values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([*spacing, 1.0])), path)
    return path


def sipakmed(root: Path, slides: int = 2) -> Path:
    for number, label in enumerate(SIPAKMED):
        folder = root / f"im_{label}" / f"im_{label}"
        for slide in range(1, slides + 1):
            write_image(folder / f"{slide:03d}.bmp", picture(number * 10 + slide, (40, 50)))
            for cell in (1, 2):
                stem = folder / "CROPPED" / f"{slide:03d}_{cell:02d}"
                write_image(stem.with_suffix(".bmp"), picture(100 * number + 10 * slide + cell, (30, 20)))
                stem.with_name(f"{stem.name}_nuc.dat").write_text("5,10\n14,10\n14,19\n5,19\n")
                stem.with_name(f"{stem.name}_cyt.dat").write_text("1,1\n18,1\n18,28\n1,28\n")
    return root


def chestxray14(root: Path) -> Path:
    entries = [
        ("00000001_000.png", "Cardiomegaly|Effusion", "1"),
        ("00000001_001.png", "No Finding", "1"),
        ("00000002_000.png", "Infiltration", "2"),
        ("00000003_000.png", "Hernia", "3"),
        ("00000004_000.png", "Nodule", "4"),
    ]
    rows = [
        {"Image Index": name, "Finding Labels": labels, "Patient ID": patient, "Patient Age": 50}
        for name, labels, patient in entries
    ]
    write_csv(root / "Data_Entry_2017_v2020.csv", rows)
    for number, (name, *_) in enumerate(entries):
        write_image(root / f"images_00{1 + number % 2}" / "images" / name, picture(number, (64, 128)))
    (root / "train_val_list.txt").write_text("\n".join(name for name, *_ in entries[:3]) + "\n")
    (root / "test_list.txt").write_text("\n".join(name for name, *_ in entries[3:]) + "\n")
    (root / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000003_000.png,Infiltrate,256,512,128,64,,,\n"
    )
    return root


def busi(root: Path) -> Path:
    for label in ("benign", "malignant", "normal"):
        for number in (1, 2, 3):
            stem = f"{label} ({number})"
            write_image(root / label / f"{stem}.png", picture(number + len(label), (40, 60)))
            mask = np.zeros((40, 60), np.uint8)
            if label != "normal":
                mask[5:10, 5:10] = 255
            write_image(root / label / f"{stem}_mask.png", mask)
    second = np.zeros((40, 60), np.uint8)
    second[30:35, 40:50] = 255
    write_image(root / "benign" / "benign (2)_mask_1.png", second)
    return root


def herlev(root: Path, each: int = 2) -> Path:
    for number, label in enumerate(HERLEV):
        for index in range(1, each + 1):
            name = f"153826040-153826058-{index:03d}"
            write_image(root / label / f"{name}.bmp", picture(100 * number + index, (30, 40)))
            (root / label / f"{name}.bmp").rename(root / label / f"{name}.BMP")
            write_image(root / label / f"{name}-d.bmp", picture(99, (30, 40)))
    return root


def milk10k(root: Path) -> Path:
    truth, facts = [], []
    for number, label in enumerate(("MEL", "BCC", "NV")):
        lesion = f"IL_{number:07d}"
        truth.append({"lesion_id": lesion, **{name: float(name == label) for name in MILK_CLASSES}})
        for offset, kind in enumerate(("clinical: close-up", "dermoscopic")):
            image = f"ISIC_{2 * number + offset:07d}"
            facts.append(
                {"lesion_id": lesion, "image_type": kind, "isic_id": image, "age_approx": 60, "sex": "male"}
                | {"skin_tone_class": 3, "site": "trunk"}
            )
            folder = root / "MILK10k_Training_Input" / lesion
            write_image(folder / f"{image}.jpg", picture(2 * number + offset, (45, 60)))
    write_csv(root / "MILK10k_Training_GroundTruth.csv", truth)
    write_csv(root / "MILK10k_Training_Metadata.csv", facts)
    return root


def derm7pt(root: Path) -> Path:
    diagnoses = ("melanoma (less than 0.76 mm)", "clark nevus", "dermatofibroma", "basal cell carcinoma")
    rows = []
    for number, diagnosis in enumerate(diagnoses, start=1):
        names = {"clinic": f"NEL/Nal{number}.jpg", "derm": f"NEL/Ndl{number}.jpg"}
        for seed, name in enumerate(names.values()):
            write_image(root / "images" / name, picture(10 * number + seed, (40, 60)))
        rows.append({"case_num": number, "diagnosis": diagnosis, **names, "sex": "female", "case_id": ""})
    (root / "meta").mkdir()
    write_csv(root / "meta" / "meta.csv", rows)
    for name, indexes in (("train", (0, 3)), ("valid", (1,)), ("test", (2,))):
        write_csv(root / "meta" / f"{name}_indexes.csv", [{"indexes": index} for index in indexes])
    return root


def acdc(root: Path) -> Path:
    for number, group in ((1, "DCM"), (2, "NOR"), (3, "RV")):
        folder = root / "training" / f"patient{number:03d}"
        folder.mkdir(parents=True)
        (folder / "Info.cfg").write_text(f"ED: 1\nES: 12\nGroup: {group}\nHeight: 184.0\nNbFrame: 30\n")
        for frame in (1, 12):
            values = np.random.default_rng(number * frame).random((20, 18, 6), dtype=np.float32)
            stem = f"{folder.name}_frame{frame:02d}"
            write_volume(folder / f"{stem}.nii.gz", values, (1.5, 1.5, 10))
            write_volume(folder / f"{stem}_gt.nii.gz", (values > 0.5).astype(np.float32), (1.5, 1.5, 10))
    return root


def idrid(root: Path) -> Path:
    masks, grading = root / "A. Segmentation", root / "B. Disease Grading"
    for part, folder in PARTS.items():
        for number in (1, 2):
            image = picture(number, (30, 40))
            stem = f"IDRiD_{number + (0 if part == 'train' else 54):02d}"
            write_image(masks / "1. Original Images" / folder / f"{stem}.jpg", image)
            lesions = masks / "2. All Segmentation Groundtruths" / folder
            write_image(lesions / LESIONS["MA"] / f"{stem}_MA.tif", (image > 128).astype(np.uint8))
            if number == 1:
                write_image(lesions / LESIONS["SE"] / f"{stem}_SE.tif", (image > 200).astype(np.uint8))
            write_image(grading / "1. Original Images" / folder / f"IDRiD_00{number}.jpg", image)
        table = grading / "2. Groundtruths" / TABLES[part]
        table.parent.mkdir(parents=True, exist_ok=True)
        header = "Image name,Retinopathy grade,Risk of macular edema ,,\n"
        table.write_text(header + "IDRiD_001,3,2,,\nIDRiD_002,0,0,,\n")
    return root


def lits(root: Path) -> Path:
    for number in (0, 1):
        classes = np.zeros((40, 36, 8), np.float32)
        classes[5:35, 5:30, 1:7] = 1
        if number == 0:
            classes[10:20, 12:20, 3:5] = 2
        values = np.random.default_rng(number).normal(60, 20, classes.shape).astype(np.float32)
        write_volume(root / f"volume-{number}.nii", values, (0.8, 0.8, 5))
        write_volume(root / f"segmentation-{number}.nii", classes, (0.8, 0.8, 5))
    return root


def msd(root: Path) -> Path:
    lits(root / "raw")
    for kind, name in (("volume", "imagesTr"), ("segmentation", "labelsTr")):
        (root / name).mkdir()
        for number in (0, 1):
            image = nibabel.load(root / "raw" / f"{kind}-{number}.nii")
            nibabel.save(image, root / name / f"liver_{number}.nii.gz")
            (root / "raw" / f"{kind}-{number}.nii").unlink()
    return root


def lld_volumes(root: Path, boxes: Mapping[str, Sequence[Mapping[str, int]]]) -> Path:
    """Whole volumes of ``(W, H, D)`` = (60, 50, 12) voxels whose value is their own index."""
    x, y, z = np.meshgrid(np.arange(60), np.arange(50), np.arange(12), indexing="ij")
    values = (x + 100 * y + 10_000 * z).astype(np.float32)
    patients = {}
    for number, (patient, own) in enumerate(boxes.items()):
        patients[patient] = []
        for series, phase in enumerate(PHASES):
            write_volume(root / "images" / patient / "study" / f"s{series}.nii.gz", values, (1.5, 1.2, 3))
            lesions = {str(i): {"category": number, "bbox": {"3D_box": box}} for i, box in enumerate(own)}
            patients[patient].append(
                {"studyUID": "study", "seriesUID": f"s{series}", "phase": phase}
                | {"pixel_spacing": [1.5, 1.2], "slice_thickness": 3, "annotation": {"lesion": lesions}}
            )
    (root / "labels").mkdir()
    (root / "labels" / "Annotation.json").write_text(json.dumps({"Annotation_info": patients}))
    return root


def lld_regions(root: Path, cases: Mapping[str, int]) -> Path:
    base = root / "classification_dataset"
    for number, case in enumerate(cases):
        for phase in PHASES:
            values = np.random.default_rng(number).random((16, 14, 6), dtype=np.float32)
            write_volume(base / "images" / case / f"{phase}.nii.gz", values)
    (base / "labels").mkdir()
    (base / "labels" / "labels.txt").write_text("".join(f"{case} {label}\n" for case, label in cases.items()))
    return root


def lld_tables(folder: Path, folds: Sequence[Mapping[str, tuple[str, int]]], test: Mapping[str, int]) -> None:
    """LCA-DB's tables, as its code publishes them: lines end in CRLF, and the test cases stand apart."""
    tables = {f"fold{number}": fold for number, fold in enumerate(folds, start=1)}
    tables["test"] = {case: ("test", label) for case, label in test.items()}
    folder.mkdir(exist_ok=True)
    for name, rows in tables.items():
        lines = ["lesion_classifier,dataset,label"]
        lines += [f"{case},{part},{label}" for case, (part, label) in rows.items()]
        (folder / f"{name}.csv").write_bytes("".join(f"{line}\r\n" for line in lines).encode())


def pixels_of(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


FINDING_NAMES = tuple(FINDINGS)
