"""What models of one picture share: the check of what they are given, and the heat-map declaration."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from foveate.contract import Classifier, InputSpec, Views
from foveate.errors import UsageError


class SingleViewClassifier(Classifier):
    """A classifier of one view, ``(B, C, H, W)``.

    Args:
        name: the model's name, for errors.
        num_classes: K, at least 1.
        spec: one view of two dimensions, or a slice with its neighbours as channels.
        cam_feature: key in ``ModelOutput.features`` that CAM methods use.

    Raises:
        UsageError: the study's input is none that this model takes.
    """

    def __init__(self, name: str, num_classes: int, spec: InputSpec, *, cam_feature: str) -> None:
        super().__init__()
        _check_spec(name, num_classes, spec)
        self.input_spec = spec
        self.num_classes = num_classes
        self.cam_feature = {spec.views[0]: cam_feature}

    def only_view(self, views: Views) -> Float[Tensor, "B C H W"]:
        """Pick the one view out of a batch.

        Raises:
            UsageError: it is missing, or its axes or channels are not those of ``input_spec``.
        """
        name, channels = self.input_spec.views[0], self.input_spec.channels
        if name not in views:
            raise UsageError(
                f"the model takes the view '{name}', and was given: {', '.join(views) or 'none'}",
                fix=f"name the view '{name}', or build the model for the view you have",
            )
        picture = views[name]
        if picture.ndim != 4 or picture.shape[1] != channels:
            raise UsageError(
                f"the model takes (B, {channels}, H, W), and was given {tuple(picture.shape)}",
                where=f"view '{name}'",
                fix="prepare the image with the preprocessing that the model was built for",
            )
        return picture


def _check_spec(name: str, num_classes: int, spec: InputSpec) -> None:
    if num_classes < 1:
        raise UsageError(f"{name} needs at least one class, not {num_classes}")
    if len(spec.views) != 1:
        raise UsageError(
            f"{name} takes one view, the study has {len(spec.views)}: {', '.join(spec.views)}",
            fix="name one of them under data: views, or choose a model of several views",
        )
    if spec.dimensions == "3" or len(spec.size) != 2:
        raise UsageError(
            f"{name} takes pictures (H, W), the study has {spec.dimensions}-D input of size {spec.size}",
            fix="classify slices (with neighbours: 1 they keep their context)",
        )
