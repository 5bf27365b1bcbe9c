"""Building a study's model without weights, and mostly without memory, to learn whether it can be built."""

from __future__ import annotations

import torch

from foveate.contract import Classifier
from foveate.errors import UsageError
from foveate.models import build_model
from foveate.prepare.preprocess import Preprocess
from foveate.study.study import Study


def build_untrained(study: Study, views: tuple[str, ...], classes: int) -> Classifier:
    """The model of a study with weights that are not there, or, where that cannot be, at random.

    Args:
        study: names the model and what it is fed.
        views: of the cohort, in order.
        classes: K.

    Raises:
        UsageError: there is no such model, or it does not take these options or this input.
    """
    spec = Preprocess(study.preprocess).input_spec(views)
    try:
        with torch.device("meta"):
            return build_model(study.model.name, classes, spec, options=study.model.options)
    except UsageError:
        raise
    except Exception:  # some networks try themselves out while they are built, such as timm's
        return build_model(study.model.name, classes, spec, options=study.model.options)
