"""Questions about what is marked: the inside and the outside of lesions, and how large things appear.

They are asked of the cases that have a mask or boxes, with donors among these. What lies outside a marked
lesion, or in the organ away from it, should not decide. What lies inside should: there the answer is no
accusation, but says whether the model reads the lesion or only where it is.

The scale is exchanged by enlarging or reducing a picture by the ratio of a donor's scale to its own. Since
that disturbs the picture, it is compared with the same ratio the other way round, which disturbs it as much
and leads away from the donor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from foveate.evaluate.intervals import Floats
from foveate.stations.shortcuts.exchange import Donors, ExchangedRegion, choose_donors
from foveate.stations.shortcuts.questions import AskedView, ProbeQuestion
from foveate.stations.shortcuts.regions import organ_without_lesion, outside_lesion

FEWEST = 10  # cases with a mask
SCALES_DIFFER = 1.1  # ratio of the 95th to the 5th percentile of scales from which on they are exchanged
MOST_ZOOM = 2.0  # either way


@dataclass(frozen=True, slots=True)
class Inside(ExchangedRegion):
    """What lies inside a mask: a donor's is brought to the size of the own mask, whose outline stays."""

    def changed(self, images: Tensor, donors: Donors, *, other: bool) -> Tensor:
        """The images with the donors' inside in the place of their own."""
        rows = (donors.other if other else donors.same).tolist()
        found = images.clone()
        boxes = [_box(mask) for mask in self.mask]
        for row, donor in enumerate(rows):
            own, size = boxes[row], [edge.stop - edge.start for edge in boxes[row]]
            content = images[donor][:, boxes[donor][0], boxes[donor][1]][None].float()
            fitted = interpolate(content, size=size, mode="bilinear", align_corners=False)[0]
            inside, before = self.mask[row][own], images[row][:, own[0], own[1]]
            found[row][:, own[0], own[1]] = torch.where(inside, fitted.to(images.dtype), before)
        return found


@dataclass(frozen=True, slots=True)
class Scale(ExchangedRegion):
    """How large things appear.

    Attributes:
        scales: ``(N,)`` of the cases.
    """

    scales: tuple[float, ...] = ()

    def changed(self, images: Tensor, donors: Donors, *, other: bool) -> Tensor:
        """The images enlarged to the scale of donors of another truth, or as much the other way."""
        scales = np.asarray(self.scales)
        ratio = np.clip(scales[donors.other] / scales, 1 / MOST_ZOOM, MOST_ZOOM)
        return zoomed(images, ratio if other else 1 / ratio)


def zoomed(images: Tensor, ratios: Floats) -> Tensor:
    """Enlarge images about their middle (reduce, below 1; the edge is continued): ``(N, C, H, W)``."""
    matrix = torch.zeros(len(images), 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = torch.from_numpy(1 / ratios).float()
    grid = affine_grid(matrix, list(images.shape), align_corners=False)
    found = grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return found.to(images.dtype)


def marked_questions(views: list[AskedView], not_tested: list[str]) -> Iterator[ProbeQuestion]:
    """Outside of the lesion, the organ away from it, inside of the lesion, and scale, in each view.

    Args:
        views: where.
        not_tested: what cannot be asked is added here, with the reason.
    """
    for view in views:
        if view.cases.views[view.name].ndim == 4:
            yield from _file_scale(view, not_tested)
        reason = "no case has a mask or a box of a lesion" if view.places.truth is None else ""
        own = None if view.places.truth is None else _marked_part(view, view.places.truth)
        if own is None:
            reason = reason or f"fewer than {FEWEST} cases of two classes have a mask or a box of a lesion"
            not_tested.append(f"{view.name}: outside, inside and scale of lesions, as {reason}")
            continue
        yield from _of_lesions(own, not_tested)


def _of_lesions(view: AskedView, not_tested: list[str]) -> Iterator[ProbeQuestion]:
    """The questions about cases that all have a lesion marked."""
    truth, outside = view.places.truth, outside_lesion(view.places)
    assert truth is not None and outside is not None
    yield ProbeQuestion(view, ExchangedRegion("outside-lesion", view.name, outside, take="both"))
    within = organ_without_lesion(view.places)
    if within is not None and within.any():
        yield ProbeQuestion(view, ExchangedRegion("organ-without-lesion", view.name, within, take="both"))
    if truth.ndim == 3:
        yield ProbeQuestion(view, Inside("inside-lesion", view.name, truth))
        sides = truth.flatten(1).sum(dim=1).double().sqrt()
        yield from _scale(view, "lesion-scale", sides.numpy(), "lesions are all equally large", not_tested)


def _file_scale(view: AskedView, not_tested: list[str]) -> Iterator[ProbeQuestion]:
    """By how much the pixels of the files were enlarged to the model's field."""
    if view.cases.bundle.preprocess.settings(view.name).organ_crop:
        return
    shapes = [item.views[view.name].field.turned for item in view.cases.items]
    pixels = np.array([np.prod(shape[-2:]) for shape in shapes], dtype=float)
    covered = view.places.field.flatten(1).sum(dim=1).double().numpy()
    reason = "all files are reduced to the model's size alike"
    yield from _scale(view, "scale", np.sqrt(covered / pixels), reason, not_tested)


def _scale(
    view: AskedView, name: str, scales: Floats, same: str, not_tested: list[str]
) -> Iterator[ProbeQuestion]:
    low, high = np.quantile(scales, (0.05, 0.95))
    if high < SCALES_DIFFER * low:
        not_tested.append(f"{view.name}: {name}, as {same}")
        return
    everywhere = torch.ones(view.cases.views[view.name].shape[-2:], dtype=torch.bool)
    yield ProbeQuestion(
        view, Scale(name, view.name, everywhere, scales=tuple(scales.tolist())), removed=False
    )


def _marked_part(view: AskedView, masks: Tensor) -> AskedView | None:
    """The cases of a view with a mask, with donors among them; None where they are too few or alike."""
    rows = masks.flatten(1).any(dim=1).nonzero().flatten().tolist()
    truth = view.cases.truth[rows]
    told = ((truth == 1).any(axis=0) & (truth == 0).any(axis=0)).any()
    if len(rows) < FEWEST or not told or len({view.cases.patients[row] for row in rows}) < 2:
        return None
    cases = view.cases.part(rows)
    return replace(
        view,
        cases=cases,
        places=view.places.part(rows),
        original=view.original[rows],
        donors=choose_donors(cases.truth, cases.patients, seed=view.seed),
    )


def _box(mask: Tensor) -> tuple[slice, ...]:
    """The smallest box around a mask."""
    found = mask.nonzero()
    low, high = found.min(dim=0).values.tolist(), found.max(dim=0).values.tolist()
    return tuple(slice(start, stop + 1) for start, stop in zip(low, high, strict=True))
