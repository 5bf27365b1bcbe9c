"""Whether images are normalized as those were that pretrained weights were trained on."""

from __future__ import annotations

import logging

import numpy as np

from foveate.study.pretrained import package_of
from foveate.study.study import Study

logger = logging.getLogger(__name__)

_NEAR = 0.02
"""Mean and standard deviation that differ by less make no difference to a network (0.5 beside 127/255)."""
_TIMM = "timm:"


def note_normalization(study: Study, views: tuple[str, ...]) -> None:
    """Say where a study normalizes otherwise than its pretrained weights expect.

    Args:
        study: with its choice of weights.
        views: of the cohort.
    """
    expected = _expected(study)
    if expected is None:
        return
    for view in views:
        own = study.preprocess.for_view(view)
        if own.intensity == "zscore":
            logger.warning(
                "view %s is normalized by each image's own values (preprocess.intensity: zscore); the "
                "pretrained weights were trained with mean %s and std %s of all images",
                view,
                *map(_shown, expected),
            )
        elif np.abs(np.subtract((own.mean, own.std), expected)).max() > _NEAR:
            logger.warning(
                "view %s is normalized with mean %s and std %s; the pretrained weights were trained with "
                "mean %s and std %s",
                view,
                *map(_shown, (own.mean, own.std, *expected)),
            )


def _expected(study: Study) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation that the weights were trained with; None where that is not known."""
    pretrained, name = study.model.pretrained, study.model.name
    if package := package_of(pretrained):
        return package.mean, package.std
    if pretrained is True and name.startswith(_TIMM):
        import timm

        known = timm.get_pretrained_cfg(name.removeprefix(_TIMM))
        return known and (tuple(known.mean), tuple(known.std))
    return None


def _shown(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.3f}" for value in values)
