"""What models of several views or of volumes share: the check of their input, and who lacks what."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from foveate.contract import Classifier, InputSpec, Views, given
from foveate.errors import UsageError

Dimensions = Literal["2", "2.5", "3"]


class SeveralViewsClassifier(Classifier):
    """A classifier of one or more views, each ``(B, C, *space)``.

    Args:
        name: the model's name, for errors.
        num_classes: K, at least 1.
        spec: what the study feeds it.
        cam_feature: for each view, the key in ``ModelOutput.features`` that CAM methods use.
        dimensions: what it can take.
        tolerates_missing: whether a case may lack views.

    Raises:
        UsageError: the study's input is none that this model takes.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        spec: InputSpec,
        *,
        cam_feature: Mapping[str, str],
        dimensions: Collection[Dimensions],
        tolerates_missing: bool,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise UsageError(f"{name} needs at least one class, not {num_classes}")
        if spec.dimensions not in dimensions:
            raise UsageError(
                f"{name} takes {' or '.join(dimensions)}-D input, the study has {spec.dimensions}-D "
                f"input of size {spec.size}",
                fix="give preprocess.size two numbers (H, W) for pictures and three (D, H, W) for volumes",
            )
        self.input_spec = spec
        self.num_classes = num_classes
        self.cam_feature = dict(cam_feature)
        self.tolerates_missing = tolerates_missing

    def pick(self, views: Views) -> tuple[dict[str, Tensor], Bool[Tensor, "B V"]]:
        """The model's views, with zeros where a case lacks one, and who has which.

        Args:
            views: each ``(B, C, *space)``; a row of NaN is a view that the case lacks.

        Returns:
            Views by name in the order of ``input_spec.views``, finite; and ``(B, V)`` whether it is there.

        Raises:
            UsageError: a view is absent from the batch, has other axes or channels than ``input_spec``,
                is missing in a case although the model tolerates none, or a case has no view at all.
        """
        spec = self.input_spec
        pictures, there = {}, []
        for name in spec.views:
            if name not in views:
                raise UsageError(
                    f"the model takes the view '{name}', and was given: {', '.join(views) or 'none'}",
                    fix=f"name the view '{name}', or build the model for the views you have",
                )
            view = views[name]
            if view.ndim != 2 + len(spec.size) or view.shape[1] != spec.channels:
                wanted = ", ".join(["B", str(spec.channels), *"DHW"[-len(spec.size) :]])
                raise UsageError(
                    f"the model takes ({wanted}), and was given {tuple(view.shape)}",
                    where=f"view '{name}'",
                    fix="prepare the image with the preprocessing that the model was built for",
                )
            pictures[name], has = given(view)
            there.append(has)
        present = torch.stack(there, dim=1)
        self._check_present(present)
        return pictures, present

    def _check_present(self, present: Bool[Tensor, "B V"]) -> None:
        if torch.compiler.is_exporting():  # a graph cannot ask what it is given; who runs it does
            return
        lacking = ~present.any(dim=1) if self.tolerates_missing else ~present.all(dim=1)
        if lacking.any():
            rows = ", ".join(map(str, lacking.nonzero().flatten().tolist()))
            raise UsageError(
                f"views are missing (or hold NaN) at batch positions {rows}",
                fix="leave these cases out"
                if self.tolerates_missing
                else "give every view, or choose a model that tolerates missing ones (`foveate models`)",
                code="view-missing",
            )
