"""The command line: the whole way on a DICOM phantom, stations alone, and what bad input ends as."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.markup import render
from typer.main import get_command

from command_line import foveate
from foveate.cli.app import app
from foveate.data.phantoms.ct import make_phantom
from foveate.io.reading import read_image
from foveate.maps.heatmaps import read_case, read_index

pytestmark = pytest.mark.slow

STUDY = """\
name: small
data: {manifest: phantom/manifest.csv}
split: {test: 0.3, val: 0.3}
preprocess: {size: [48, 48], window: [-60, 240], neighbours: 1, organ_crop: true}
model: {name: dadrn50, options: {width: 0.125, depths: [1, 1, 1, 1]}}
train: {epochs: 1, batch_size: 8}
evaluate: {bootstrap: 100}
trust: {methods: [gradcam, smoothgrad], cases: 8}
"""


def installed(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a folder that holds a file named like a system library."""
    (folder / "dl").write_text("not a library")
    command = [str(Path(sys.executable).with_name("foveate")), *map(str, arguments)]
    environment = os.environ | {
        "FOVEATE_CACHE": str(folder / "cache"),
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study and its run, made by ``foveate run``."""
    folder = tmp_path_factory.mktemp("work")
    make_phantom(folder / "phantom", patients=20, slices=2, size=64, format="dicom")
    (folder / "study.yaml").write_text(STUDY)
    done = installed("run", "study.yaml", "--run", "run", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    return folder


def test_every_station_left_its_files(workplace: Path) -> None:
    run = workplace / "run"
    wanted = "study.yaml audit.json splits.json training.csv bundle/model.safetensors bundle/bundle.json "
    wanted += (
        "predictions.csv metrics.json heatmaps/index.csv boxes.csv localization.json probes.json trust.json "
        "report.html run.json"
    )
    assert [name for name in wanted.split() if not (run / name).is_file()] == []
    stations = json.loads((run / "run.json").read_text())["stations"]
    assert set(stations) == {
        "audit",
        "split",
        "train",
        "predict",
        "evaluate",
        "explain",
        "localize",
        "probe",
        "trust",
    }


def test_heat_maps_lie_in_original_pixels_and_outside_the_organ_is_nothing(workplace: Path) -> None:
    manifest = pd.read_csv(workplace / "phantom" / "manifest.csv").set_index("case_id")
    for entry in read_index(workplace / "run" / "heatmaps")[:4]:
        stored = read_case(workplace / "run" / "heatmaps" / entry.file)
        image = read_image(workplace / "phantom" / manifest.image[entry.case_id])
        assert stored.values.shape[1:] == image.pixels.shape[2:] == (64, 64)
        assert stored.values.dtype == np.float32 and (stored.values[:, 0] == 0).all()  # a corner of air
        assert entry.truth_class in stored.targets and entry.predicted_class in stored.targets


def test_no_patient_of_the_test_part_was_learned_from(workplace: Path) -> None:
    manifest = pd.read_csv(workplace / "phantom" / "manifest.csv").set_index("case_id")
    (fold,) = json.loads((workplace / "run" / "splits.json").read_text())["folds"]
    parts = pd.Series(fold).groupby(manifest.patient_id).nunique()
    assert (parts == 1).all() and set(fold.values()) == {"train", "val", "test"}
    predicted = pd.read_csv(workplace / "run" / "predictions.csv")
    assert set(predicted.case_id) == {case for case, part in fold.items() if part != "train"}


def test_stations_run_again_alone(workplace: Path) -> None:
    before = (workplace / "run" / "metrics.json").read_bytes()
    for command in ("evaluate", "localize", "report"):
        done = foveate(command, "run", folder=workplace)
        assert done.code == 0, done.err
    assert (workplace / "run" / "metrics.json").read_bytes() == before
    one = sorted(pd.read_csv(workplace / "run" / "predictions.csv").case_id)[0]
    done = foveate("explain", "run", "--case", one, "--method", "integrated_gradients", folder=workplace)
    assert done.code == 0 and "1 cases explained" in done.out, done.err


def test_another_cohort_is_tested_unless_it_was_learned_from(workplace: Path) -> None:
    other = workplace / "phantom" / "other.csv"
    same = foveate("predict", "run", "--manifest", "phantom/manifest.csv", folder=workplace)
    assert same.code == 3 and "training-patients" in same.err
    manifest = pd.read_csv(workplace / "phantom" / "manifest.csv")
    manifest.assign(patient_id="new-" + manifest.patient_id).to_csv(other, index=False)
    done = foveate("predict", "run", "--manifest", other, "--out", "other.csv", folder=workplace)
    assert done.code == 0, done.err
    assert foveate("evaluate", "other.csv", folder=workplace).code == 0
    metrics = json.loads((workplace / "other.metrics.json").read_text())
    unseen = pd.read_csv(workplace / "run" / "predictions.csv").query("split == 'test'")  # by their images
    assert metrics["n"] == len(unseen) and metrics["patients"] == unseen.patient_id.nunique()
    assert metrics["seen"] == len(manifest) - len(unseen) > 0


def test_a_refused_case_leaves_the_rest_whole(workplace: Path) -> None:
    manifest = pd.read_csv(workplace / "phantom" / "manifest.csv")
    predicted = pd.read_csv(workplace / "run" / "predictions.csv")
    lost = manifest.set_index("case_id").loc[predicted.case_id[predicted.split == "test"].iloc[0]]
    files = sorted((workplace / "phantom" / lost.image).iterdir())
    content = files[1].read_bytes()
    files[1].write_bytes(content[:-200])
    try:
        done = installed("predict", "run", folder=workplace)
        whole = pd.read_csv(workplace / "run" / "predictions.csv")
    finally:
        files[1].write_bytes(content)
    assert done.returncode == 5, done.stderr
    assert files[1].name in done.stderr
    gone = set(predicted.case_id) - set(whole.case_id)
    assert gone == set(manifest.case_id[manifest.image == lost.image]) and len(whole) > 0
    assert installed("predict", "run", folder=workplace).returncode == 0


def test_training_again_is_at_once_done(workplace: Path) -> None:
    before = (workplace / "run" / "bundle" / "model.safetensors").read_bytes()
    assert installed("train", "run", folder=workplace).returncode == 0
    assert (workplace / "run" / "bundle" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run", "nowhere.yaml"), 2, "cannot be read"),
        (("evaluate", "phantom"), 2, "not a run folder"),
        (("run", "misspelt.yaml"), 2, "did you mean 'epochs'"),
        (("init", "broken.csv"), 3, "row 3"),
        (("audit", "leaky.yaml", "--run", "leaky"), 3, "patient-in-two-splits"),
        (("phantom", "p", "--format", "bmp"), 2, "bmp"),
    ],
)
def test_bad_input_ends_as_documented(
    workplace: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    (workplace / "misspelt.yaml").write_text(STUDY.replace("epochs:", "epoch:"))
    rows = (workplace / "phantom" / "manifest.csv").read_text().splitlines()
    (workplace / "broken.csv").write_text("case_id,patient_id,label,image\na,p,x,lost.png\nb,q,y,none.png\n")
    parts = [",split", *(",train" if number % 2 else ",test" for number in range(len(rows) - 1))]
    leaky = "\n".join(row + part for row, part in zip(rows, parts, strict=True))
    (workplace / "phantom" / "leaky.csv").write_text(leaky)
    (workplace / "leaky.yaml").write_text(
        STUDY.replace("manifest.csv", "leaky.csv").replace("val: 0.3", "val: 0.3, column: split")
    )
    done = foveate(*arguments, folder=workplace)
    assert done.code == code, done.err
    assert said in done.err + done.out
    assert "Traceback" not in done.err


def test_help_needs_no_torch_and_shows_an_example() -> None:
    code = """
import sys, foveate.cli.app
sys.argv = ["foveate", "train", "--help"]
try:
    foveate.cli.app.main()
except SystemExit:
    assert not {"torch", "pandas", "sklearn", "pydicom"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Example: foveate train study.yaml" in done.stdout


def test_no_help_text_loses_what_stands_in_brackets() -> None:
    """Rich takes ``[default: …]`` for a style and prints nothing, unless the bracket is escaped."""

    def all_of(command: Any) -> Iterator[Any]:
        yield command
        for one in getattr(command, "commands", {}).values():
            yield from all_of(one)

    texts = [
        text
        for command in all_of(get_command(app))
        for text in (command.help, *(getattr(parameter, "help", None) for parameter in command.params))
        if text
    ]
    assert len([text for text in texts if "[default: " in text]) > 20
    for text in texts:
        assert render(text).plain == text.replace("\\[", "["), text


def driven(code: str, command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python that calls a command on the run that is there."""
    call = [sys.executable, "-c", code, command, "run"]
    return subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)


def test_ctrl_c_says_that_the_same_command_goes_on(workplace: Path) -> None:
    code = (
        "import os, signal, time\n"
        "from foveate.cli import app\n"
        "from foveate.stations import audit\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it\n"
        "audit.audit = lambda *given, **more: (os.kill(os.getpid(), signal.SIGINT), time.sleep(9))\n"
        "app.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "audit", "run"],
        cwd=workplace,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130 and "the same command goes on" in done.stderr


def test_a_model_that_does_not_fit_is_refused_before_the_audit(workplace: Path) -> None:
    wrong = STUDY.replace("name: dadrn50", "name: dadrn50, pretrained: nowhere.pth")
    (workplace / "wrong.yaml").write_text(wrong)
    done = foveate("run", "wrong.yaml", "--run", "wrong", folder=workplace)
    assert done.code in (2, 3) and "nowhere.pth" in done.err
    assert not (workplace / "wrong" / "audit.json").exists()


def test_warnings_are_sentences(workplace: Path) -> None:
    code = (
        "import warnings\n"
        "from foveate.cli import app\n"
        "from foveate.stations import split\n"
        "split.split = lambda run: warnings.warn('this [is] odd') or exit(0)\n"
        "app.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "split", "run"],
        cwd=workplace,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "warning  this [is] odd\n"
