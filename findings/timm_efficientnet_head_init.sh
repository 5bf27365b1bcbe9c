#!/usr/bin/env bash
# EfficientNet, MobileNet and their like of timm start sure of a class where there are few classes.
#
# Seen with: timm 1.0.31, torch 2.15.0.
# Expected: a network of K classes from random weights answers about 1/K of each, so that its first cross-entropy lies
#   near ln K, as that of ResNet-18, DenseNet-121 and ConvNeXt does, and as it does with 1,000 classes.
# Seen: the weights of the last layer are drawn from ±1/√K, K being the number of classes and not that of its inputs:
#   with three classes the first loss is two to five times ln 3, with 1,000 it is ln 1000.
# Consequence: a short training for two to five classes spends its first epochs on unlearning its last layer.
#
# Prints the first losses, exits 0 if all is as described, 1 if that has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.15.0" "timm==1.0.31" numpy
cat >"$work/losses.py" <<'PY'
import math

import timm
import torch

NAMES = "tf_efficientnet_lite0 efficientnet_b0 mobilenetv3_large_100 mnasnet_100 resnet18 densenet121 convnext_atto"
for name in NAMES.split():
    for classes in (3, 1000):
        losses = []
        for seed in range(3):
            torch.manual_seed(seed)
            model = timm.create_model(name, num_classes=classes, drop_rate=0.0).train()
            images, labels = torch.randn(32, 3, 96, 96), torch.arange(32) % classes
            with torch.no_grad():
                losses.append(float(torch.nn.functional.cross_entropy(model(images), labels)))
        print(name, classes, round(sum(losses) / len(losses) / math.log(classes), 3))
PY
"$work/venv/bin/python" "$work/losses.py" | tee "$work/out"
awk '{ mobile = ($1 ~ /efficientnet|mobilenet|mnasnet/); sure = ($3 > 1.5); expected = (mobile && $2 == 3)
       if (sure != expected) { print "changed: " $0; bad = 1 } } END { exit bad }' "$work/out"
echo "as described"
