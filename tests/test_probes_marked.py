"""Probes about marked lesions, scale and padding: hand-made networks, each on a cohort where it must be named
and on one where it must not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from scipy import ndimage
from torch import Tensor

from foveate.bundle import bundle as bundles
from foveate.contract import Classifier, InputSpec, ModelOutput, Views
from foveate.stations import probe as probes
from foveate.stations.shortcuts.exchange import Donors
from foveate.stations.shortcuts.inside import Inside, zoomed
from foveate.stations.shortcuts.material import Places
from foveate.stations.shortcuts.regions import Tiles, grown, outside_lesion, with_content
from foveate.stations.shortcuts.shape import mask_features
from test_probes import SIDE, bundle_of, run_of

pytestmark = pytest.mark.slow

Reads = Callable[[Tensor, Tensor], Tensor]
RED, BLUE = 0, 2  # grey values; where the lesion is
_ROWS, _COLUMNS = np.mgrid[:SIDE, :SIDE]
ORGAN = (_ROWS - 16) ** 2 + (_COLUMNS - 16) ** 2 < 13**2  # of every case, where one is drawn


class Knows(Classifier):
    """Says "ill" in proportion to what it reads: lesions are blue, so that it is known by hand what that
    is."""

    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.input_spec = InputSpec(size=(SIDE, SIDE))
        self.num_classes = 2
        self.cam_feature = {}
        self.reads = reads
        self.scale = torch.nn.Parameter(torch.tensor(6.0))

    def forward(self, views: Views) -> ModelOutput:
        image = views["image"] + 0.5
        seen = self.reads(image[:, RED], (image[:, BLUE] > 0.5).float()) * self.scale
        return ModelOutput(torch.stack([-seen, seen], dim=1))


def inside(red: Tensor, lesion: Tensor) -> Tensor:
    return (red * lesion).sum(dim=(1, 2)) / lesion.sum(dim=(1, 2)).clamp(min=1)


def around(red: Tensor, lesion: Tensor) -> Tensor:
    return inside(red, 1 - lesion)


def organ_away(red: Tensor, lesion: Tensor) -> Tensor:
    return inside(red, torch.from_numpy(ORGAN) * (1 - lesion))


def area(red: Tensor, lesion: Tensor) -> Tensor:
    return 10 * lesion.mean(dim=(1, 2))


def across(red: Tensor, lesion: Tensor) -> Tensor:
    return inside(torch.linspace(0, 1, SIDE).expand_as(red), lesion)


def darkness(red: Tensor, lesion: Tensor) -> Tensor:
    return (red < 0.05).float().mean(dim=(1, 2))


def write_lesions(
    folder: Path,
    *,
    differs: str,
    count: int = 120,
    height: tuple[int, int] = (SIDE, SIDE),
    side: int = SIDE,
    seed: int = 3,
    organ: bool = False,
) -> Path:
    """Lesions in healthy and ill, which differ in one thing: what is ``inside``, ``around``, their ``area``,
    or where they lie ``across``; files of the ill may be less high, or larger. With an
    ``organ`` in every case, what it is like away from them may differ as well."""
    draws, rows = np.random.default_rng(seed), []
    for number in range(count):
        ill = number % 2
        size = (height[ill], SIDE) if side == SIDE or not ill else (side, side)
        y, x = np.mgrid[: size[0], : size[1]]
        reach = 6 if differs == "area" and ill else 4
        middle = draws.uniform(8, size[0] - 8), draws.uniform(8, size[1] - 8)
        if differs == "across":
            middle = middle[0], 8 + 15 * ill + draws.uniform(-1, 1)
        lesion = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < (reach + draws.uniform(-0.5, 0.5)) ** 2
        far = ~ndimage.binary_dilation(lesion, iterations=3)
        red = draws.normal(120, 20, size) + draws.normal(0, 8)
        red[lesion] += (40 * ill if differs == "inside" else 0) + draws.normal(0, 8)
        red[far] += 40 * ill if differs == "around" else 0
        if organ:
            red[far & ORGAN] += 40 * ill if differs == "organ" else 0
        image = np.stack([red, red, 255.0 * lesion], axis=-1)
        name = f"{number:03d}"
        Pillow.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"{name}.png")
        Pillow.fromarray((255 * lesion).astype(np.uint8)).save(folder / f"{name}-mask.png")
        where = ",organ.png" if organ else ""
        rows.append(f"{name},p{name},{('healthy', 'ill')[ill]},{name}.png,{name}-mask.png{where}")
    Pillow.fromarray((255 * ORGAN).astype(np.uint8)).save(folder / "organ.png")
    header = "case_id,patient_id,label,image,mask" + (",organ_mask" if organ else "")
    (folder / "manifest.csv").write_text("\n".join([header, *rows]))
    return folder / "manifest.csv"


@pytest.fixture
def probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Probe a network that reads one thing, on a cohort that differs in one thing."""

    def run(reads: Reads, **cohort: object) -> dict[str, Any]:
        bundle = bundle_of((slice(0, 1), slice(0, 1)))
        object.__setattr__(bundle, "model", Knows(reads).eval())
        monkeypatch.setattr(bundles, "load_bundle", lambda _: bundle)
        run = run_of(tmp_path, write_lesions(tmp_path, **cohort))  # type: ignore[arg-type]
        return probes.probe(run).to_json()

    return run


def named(found: dict[str, Any]) -> set[str]:
    return {item["kind"] for item in found["shortcuts"]}


def effect(found: dict[str, Any], name: str) -> float:
    (row,) = [row for row in found["views"]["image"]["tested"] if row["name"] == name]
    return float(row["effect"]["value"])


class TestQuestions:
    def test_what_reads_the_inside_is_not_accused(self, probed: Callable[..., dict[str, Any]]) -> None:
        found = probed(inside, differs="inside")
        assert named(found) == set() and found["leaks"] == []
        assert effect(found, "inside-lesion") > 0.5 and abs(effect(found, "outside-lesion")) < 0.05
        assert "decides, as it should" in found["sentences"][-1]
        assert found["sentences"][0].startswith("No shortcut was found in what was asked: ")
        assert "all that lies outside the marked lesions" in found["sentences"][0]
        assert " Not asked: " in found["sentences"][0] and "image: scale, as" in found["sentences"][0]
        aspects = found["views"]["image"]["masks"]["lesion"]
        assert all(aspects[name]["telling"] == [] for name in ("area", "position", "outline"))
        assert aspects["area"]["network"]["value"] > 0.95 and aspects["area"]["difference"]["low"] > 0.1

    def test_what_reads_the_surroundings_is_named(self, probed: Callable[..., dict[str, Any]]) -> None:
        found = probed(around, differs="around")
        assert named(found) & {"outside-lesion", "region"} and effect(found, "outside-lesion") > 0.5
        assert abs(effect(found, "inside-lesion")) < 0.05
        assert "inside of the marked lesions is not shown to decide" in found["sentences"][-1]

    def test_what_reads_the_organ_away_from_the_lesion_is_named(
        self, probed: Callable[..., dict[str, Any]]
    ) -> None:
        found = probed(organ_away, differs="organ", organ=True)
        assert "organ-without-lesion" in named(found) and effect(found, "organ-without-lesion") > 0.5
        assert named(found) <= {"organ-without-lesion", "outside-lesion"}  # the one is part of the other
        assert abs(effect(found, "outside-organ")) < 0.05 and abs(effect(found, "inside-lesion")) < 0.05
        assert any(
            item["sentence"].startswith("The organ away from the marked lesions")
            for item in found["shortcuts"]
        )

    def test_what_reads_the_lesion_in_an_organ_is_not(self, probed: Callable[..., dict[str, Any]]) -> None:
        found = probed(inside, differs="inside", organ=True)
        assert named(found) == set() and abs(effect(found, "organ-without-lesion")) < 0.05
        assert "the organ away from the lesions" in found["sentences"][0]

    def test_what_reads_the_area_is_named(self, probed: Callable[..., dict[str, Any]]) -> None:
        found = probed(area, differs="area")
        assert named(found) == {"lesion-scale"} and effect(found, "lesion-scale") > 0.5
        assert "How large the marked lesion appears decides" in found["shortcuts"][0]["sentence"]
        leak = found["leaks"][0]
        assert leak["kind"] == "lesion-area" and "is not shown to know more than that" in leak["sentence"]

    def test_what_reads_the_inside_where_areas_differ_is_not(
        self, probed: Callable[..., dict[str, Any]]
    ) -> None:
        found = probed(inside, differs="area")
        assert named(found) == set()
        kinds = [leak["kind"] for leak in found["leaks"]]  # there to be learned all the same
        assert kinds[0] == "lesion-area" and "lesion-position" not in kinds
        assert found["views"]["image"]["masks"]["lesion"]["area"]["difference"]["high"] < 0

    def test_the_position(self, probed: Callable[..., dict[str, Any]]) -> None:
        found = probed(across, differs="across")
        assert [leak["kind"] for leak in found["leaks"]] == ["lesion-position"]
        assert abs(effect(found, "inside-lesion")) < 0.05

    def test_the_scale_of_files(self, probed: Callable[..., dict[str, Any]]) -> None:
        found = probed(lambda red, lesion: -area(red, lesion), differs="none", side=48)
        assert "scale" in named(found) and effect(found, "scale") > 0.5
        (leak,) = [leak for leak in found["leaks"] if leak["kind"] == "metadata"]
        assert "is not shown to know more than that" in leak["sentence"]

    def test_what_does_not_read_the_scale_of_files(self, probed: Callable[..., dict[str, Any]]) -> None:
        found = probed(inside, differs="inside", side=48)
        assert named(found) == set() and effect(found, "scale") < 0.05

    def test_padding_is_no_tile(self, probed: Callable[..., dict[str, Any]]) -> None:
        found = probed(darkness, differs="none", height=(24, 18))
        tiles = found["views"]["image"]["tiles"]
        content = np.array(tiles["content"])
        assert content.sum() == 6 * 8 and not content[[0, -1]].any()  # rows of 24 or 18 pixels of 32
        assert found["tiles"] == np.array(tiles["suspect"]).sum() <= 48
        assert not [row for row in found["views"]["image"]["tested"] if row["found"]]
        assert "metadata" in [leak["kind"] for leak in found["leaks"]]  # the size of the file tells


class TestRegions:
    def test_tiles_with_content(self) -> None:
        tiles, field = Tiles.over((32, 32), 8), torch.ones(3, 32, 32, dtype=torch.bool)
        images = torch.rand(3, 1, 32, 32)
        field[:, :6] = False  # one row of tiles, and half of the next
        images[:, :, 28:] = 0.4  # plain in all cases
        found = with_content(tiles, Places(field, None, None), images)
        assert found[1:7].all() and not found[0].any() and not found[7].any()

    def test_a_margin_belongs_to_the_lesion(self) -> None:
        truth = torch.zeros(2, 32, 32, dtype=torch.bool)
        truth[0, 10:14, 10:14] = True
        assert int(grown(truth)[0].sum()) == 8 * 8  # two pixels around
        found = outside_lesion(Places(torch.ones_like(truth), None, truth))
        assert found is not None and int(found[0].sum()) == 32 * 32 - 64 and not found[1].any()

    def test_the_inside_of_a_donor_fills_the_own_outline(self) -> None:
        mask = torch.zeros(2, 16, 16, dtype=torch.bool)
        mask[0, 2:6, 2:6], mask[0, 2, 2], mask[1, 8:16, 8:16] = True, False, True
        images = torch.stack([torch.full((1, 16, 16), 0.2), torch.rand(1, 16, 16)])
        donors = Donors(np.array([0, 1]), np.array([1, 0]))
        found = Inside("inside-lesion", "image", mask).changed(images, donors, other=True)
        halves = (
            images[1, 0, 8:16, 8:16].reshape(4, 2, 4, 2).mean(dim=(1, 3))
        )  # bilinear by 2: means of 2 × 2
        wanted = torch.where(mask[0, 2:6, 2:6], halves, 0.2)
        torch.testing.assert_close(found[0, 0, 2:6, 2:6], wanted)
        assert (found[0][:, ~mask[0]] == 0.2).all() and (found[1, 0, 8:16, 8:16] == 0.2).all()

    def test_zoom(self) -> None:
        images = torch.zeros(2, 1, 32, 32)
        images[:, :, 12:20, 12:20] = 1
        found = zoomed(images, np.array([2.0, 0.5]))
        assert found[0].sum() == pytest.approx(16 * 16, rel=0.05)
        assert found[1].sum() == pytest.approx(4 * 4, rel=0.2)


def test_mask_features_by_hand() -> None:
    masks, field = torch.zeros(2, 20, 20, dtype=torch.bool), torch.ones(2, 20, 20, dtype=torch.bool)
    masks[0, 2:6, 10:18] = True  # 4 × 8
    masks[1, 2:10, 2:4], masks[1, 8:10, 2:10] = True, True  # an L of 8 × 8, 2 thick
    field[:, :, 18:] = False
    found = mask_features(masks, field)
    assert found["area"][:, 0] == pytest.approx([32 / 360, 28 / 360])
    assert found["position"][0] == pytest.approx([4 / 20, 14 / 18])
    box, hull, aspect, round_, moments, parts, rough = found["outline"][0]
    assert (box, hull, aspect, parts) == (1, 1, 0.5, 1) and round_ == 24**2 / 32
    assert moments == pytest.approx(((16 - 1) / 12 * 32 / 31 + 1 / 12) / ((64 - 1) / 12 * 32 / 31 + 1 / 12))
    box, hull, *_, parts, rougher = found["outline"][1]
    assert box == 28 / 64 and hull == 28 / (64 - 6 * 6 / 2) and parts == 1 and rougher > rough
