"""The audit: leakage, duplicates, contradictory labels and unusable images, before anything is trained.

``audit.json`` holds ``manifest_sha256``, ``cases``, ``patients``, ``findings`` (each with ``code``,
``severity``, ``allowed``, ``message``, ``case_ids``, ``groups``), ``allowed`` (the accepted codes),
``groups`` (cases whose images are copies of each other) and ``tables``: ``classes`` (counts per class, and
per part where there are parts), ``parts`` and ``images`` (sizes, intensities and the correlation from
which on images counted as copies, per view).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from foveate.data.audit.findings import CHECKS, SEVERITY, Check, Finding
from foveate.data.audit.gathered import gather
from foveate.data.audit.tables import make_tables
from foveate.data.images import ImageRow, Key, image_rows
from foveate.data.known import ViewLooks, view_looks
from foveate.data.manifest.rows import closest
from foveate.errors import AuditStopped, InputRefused, UsageError
from foveate.evaluate.results.splits import Splits
from foveate.types import Cohort, Track, quiet


@dataclass(frozen=True, slots=True)
class Audit:
    """Everything that was found.

    Attributes:
        findings: the stopping ones first.
        groups: ids of cases whose images are copies of each other, exact or near.
        tables: counts and ranges, see the module.
        allowed: codes that are accepted.
        cases, patients: how many there are.
        manifest: path of the CSV.
        manifest_sha256: of the manifest that was audited.
        images: what each image is like, by case id and view, and
        looks: of the pictures of each view; neither is part of ``audit.json``.
    """

    findings: tuple[Finding, ...]
    groups: tuple[tuple[str, ...], ...]
    tables: Mapping[str, list[dict[str, Any]]]
    allowed: tuple[str, ...]
    cases: int
    patients: int
    manifest: str
    manifest_sha256: str
    images: Mapping[Key, ImageRow] = field(default_factory=dict, compare=False, repr=False)
    looks: Mapping[str, ViewLooks] = field(default_factory=dict, compare=False, repr=False)

    @property
    def stopping(self) -> tuple[Finding, ...]:
        """The findings that nobody has accepted and that must not be passed over."""
        return tuple(
            finding for finding in self.findings if finding.severity == "stop" and not finding.allowed
        )

    def raise_if_stopped(self) -> None:
        """Let the run go on, or not.

        Raises:
            AuditStopped: there is leakage or contradiction that is not allowed.
        """
        if not self.stopping:
            return
        listing = "\n".join(f"  - {finding.code}: {finding.message}" for finding in self.stopping)
        accept = " ".join(f"--allow {code}" for code in sorted({finding.code for finding in self.stopping}))
        raise AuditStopped(
            f"the audit stops here\n{listing}",
            where=self.manifest,
            fix=f"correct the manifest, or accept this, and the report will say so, with {accept}",
        )

    def to_json(self) -> dict[str, Any]:
        """The audit as JSON holds it."""
        plain = asdict(replace(self, images={}, looks={}))
        return {name: value for name, value in plain.items() if name not in ("images", "looks")}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The audit that ``to_json`` wrote."""
        fields = dict(content)
        fields["findings"] = tuple(Finding.from_json(finding) for finding in content["findings"])
        fields["groups"] = tuple(tuple(group) for group in content["groups"])
        fields["allowed"] = tuple(content["allowed"])
        return cls(**fields)


def audit_cohort(
    cohort: Cohort,
    *,
    splits: Splits | None = None,
    allow: Sequence[str] = (),
    more: Sequence[Check] = (),
    track: Track = quiet,
) -> Audit:
    """Look at every image once and at every part.

    Args:
        cohort: from ``load_manifest``.
        splits: the parts, if there are any already. None: the manifest's own column ``split``.
        allow: codes of findings to accept.
        more: checks beside the usual ones.
        track: shows progress.

    Returns:
        The audit; call ``raise_if_stopped`` on it before going on.

    Raises:
        UsageError: a code in ``allow`` does not exist.
    """
    for code in allow:
        if code not in SEVERITY:
            raise UsageError(f"the audit knows no code '{code}'", where="allow", fix=closest(code, SEVERITY))
    evidence = gather(cohort, splits, track)
    found = [finding for check in (*CHECKS, *more) for finding in check(evidence)]
    found = [
        replace(finding, allowed=finding.severity == "stop" and finding.code in allow) for finding in found
    ]
    return Audit(
        findings=tuple(sorted(found, key=lambda finding: finding.severity != "stop")),
        groups=tuple(evidence.ids(group) for group in evidence.twins),
        tables=make_tables(evidence),
        allowed=tuple(sorted(set(allow))),
        cases=len(cohort.cases),
        patients=len({case.patient_id for case in cohort.cases}),
        manifest=str(cohort.manifest),
        manifest_sha256=cohort.manifest_sha256,
        images=image_rows(cohort, evidence.looks),
        looks=view_looks(evidence.looks),
    )


def read_audit(path: str | Path) -> Audit:
    """Read an ``audit.json``.

    Raises:
        InputRefused: there is no such file, or it is not an audit.
    """
    try:
        return Audit.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise InputRefused(
            f"the audit cannot be read: {error.strerror}", where=str(path), fix="run `foveate audit`"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputRefused(
            f"this is not an audit: {error!r}", where=str(path), fix="run `foveate audit` again"
        ) from None
