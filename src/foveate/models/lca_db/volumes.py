"""What models of volumes share: the phases of a case as channels of one tensor, of one known size."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveate.contract import InputSpec, Views
from foveate.errors import UsageError
from foveate.models.several_views import Dimensions, SeveralViewsClassifier

VOLUMES: tuple[Dimensions, ...] = ("3",)


class VolumesClassifier(SeveralViewsClassifier):
    """A classifier of one or more phases of a volume, each ``(B, 1, D, H, W)``, some of which may be missing.

    Args:
        name: the model's name, for errors.
        num_classes: K, at least 1.
        spec: what the study feeds it.
        cam_feature: for each view, the key in ``ModelOutput.features`` that CAM methods use.

    Raises:
        UsageError: the study's input is not of volumes with one channel.
    """

    def __init__(
        self, name: str, num_classes: int, spec: InputSpec, *, cam_feature: Mapping[str, str]
    ) -> None:
        super().__init__(
            name,
            num_classes,
            spec,
            cam_feature=cam_feature,
            dimensions=VOLUMES,
            tolerates_missing=True,
        )
        if spec.channels != 1:
            raise UsageError(
                f"{name} takes volumes of one channel, the study's have {spec.channels}",
                fix="give each sequence or phase a view of its own under data: views",
            )

    def stack(self, views: Views) -> tuple[Float[Tensor, "B V D H W"], Bool[Tensor, "B V"]]:
        """The phases of each case in their order, zeros where missing, and which are there.

        Raises:
            UsageError: as ``pick``; or the volumes are of another size than the model was built for.
        """
        volumes, present = self.pick(views)
        for name, volume in volumes.items():
            if tuple(volume.shape[2:]) != self.input_spec.size:
                given = tuple(volume.shape[2:])
                raise UsageError(
                    f"the model takes volumes of {self.input_spec.size}, and was given {given}",
                    where=f"view '{name}'",
                    fix="prepare the volume with the preprocessing that the model was built for",
                )
        return torch.cat(list(volumes.values()), dim=1), present


def no_download(name: str) -> UsageError:
    """The refusal of ``pretrained=True`` for a network of which nobody publishes weights."""
    return UsageError(
        f"no weights of {name} are published to download",
        where="pretrained: true",
        fix="give the path of a weight file of your own, pretrained: <path>; or start at random, "
        "pretrained: false",
        code="no-weights",
    )
