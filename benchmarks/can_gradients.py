"""What CAN's attention loss weighs: its gradient on the two trunks beside that of the classification loss.

    python benchmarks/can_gradients.py STUDY.yaml [--steps 0 10 40] [--set model.options.weights=shares ...]

The study's training runs step by step in float32 on a phantom, with random weights at the start, or with
``--real`` as the study is. After each of these numbers of steps the two terms of the loss are differentiated
apart, on the next batch. Printed are the classification loss, the norms of both gradients over all weights of
the trunks, that of attention for λ = 1, and their ratio: at λ = 1 / ratio both pull equally hard.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import islice
from pathlib import Path

import yaml

from foveate.models.can.network import CrossAttentionClassifier
from foveate.study.study import Study
from recipe import changed, gradient_norm, on_a_phantom, parse_changes, training_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 10, 40])
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="changes")
    asked = parser.parse_args()
    changes = parse_changes(asked.changes)
    with tempfile.TemporaryDirectory() as folder:
        content = yaml.safe_load(asked.study.read_text())
        if asked.real:
            content["data"]["manifest"] = str(asked.study.parent / content["data"]["manifest"])
            study = Study.model_validate(changed(content, changes))
        else:
            study = on_a_phantom(content, Path(folder) / "phantom", changes)
        steps = islice(training_steps(study, Path(folder) / "cache"), max(asked.steps) + 1)
        for step, (model, terms) in enumerate(steps):
            if step in asked.steps:
                assert isinstance(model, CrossAttentionClassifier)
                alone = terms["attention"] / model.losses.attention_weight
                classification = gradient_norm(terms["classification"], model.first, model.second)
                attention = gradient_norm(alone, model.first, model.second)
                print(
                    f"step {step}: classification {terms['classification'].item():.3f}, "
                    f"gradient {classification:.3g}; attention's {attention:.3g}; "
                    f"ratio {attention / classification:.3g}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
