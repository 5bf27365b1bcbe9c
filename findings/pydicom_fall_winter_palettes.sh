#!/usr/bin/env bash
# pydicom gives the palette WINTER for the name FALL, and FALL for WINTER.
#
# Seen with: pydicom 3.0.2, numpy 2.3.5.
# Expected: apply_color_lut(indices, palette="FALL") gives the well-known palette Fall, 1.2.840.10008.1.5.7, from yellow
#   to red, and "WINTER" gives Winter, 1.2.840.10008.1.5.8, from blue to green (DICOM PS3.6, annex B).
# Seen: the two names are exchanged; asked by their UIDs the two are right, and by its own name each of SPRING and
#   SUMMER is. Nothing warns of it.
# Consequence: a heat map drawn with the one palette by name, and its presentation state that names the other by UID,
#   have opposite colours.
#
# Prints first and last colour of each, exits 0 if all is as described, 1 if that has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "pydicom==3.0.2" "numpy==2.3.5"
cat >"$work/palettes.py" <<'PY'
import warnings

import numpy as np
from pydicom.pixels import apply_color_lut
from pydicom.uid import UID

warnings.filterwarnings("ignore", "Invalid value for VR UI")
by_uid = {"FALL": UID("1.2.840.10008.1.5.7"), "WINTER": UID("1.2.840.10008.1.5.8")}
other = {"FALL": "WINTER", "WINTER": "FALL"}
indices = np.arange(256, dtype=np.uint8)[None]
changed = []
for name, uid in by_uid.items():
    named, meant = (apply_color_lut(indices, palette=each) for each in (name, uid))
    swapped = apply_color_lut(indices, palette=by_uid[other[name]])
    print(name, "by name", named[0, [0, -1]].tolist(), "by UID", meant[0, [0, -1]].tolist(), uid.name)
    if not (np.array_equal(named, swapped) and not np.array_equal(named, meant)):
        changed.append(name)
raise SystemExit(f"changed: {', '.join(changed)}" if changed else 0)
PY
"$work/venv/bin/python" "$work/palettes.py"
echo "as described"
