"""``audit.json``: what is wrong with a cohort, and what it consists of."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from foveate.errors import AuditStopped
from foveate.evaluate.results.file import Part, ResultFile

Severity = Literal["stop", "note"]
Range = tuple[float, float, float]
"""Smallest, median and largest."""


class Finding(Part):
    """One thing that the audit noticed.

    Attributes:
        code: a key of ``foveate.data.audit.findings.SEVERITY``; ``--allow`` takes it.
        severity: ``stop`` ends the run unless allowed, ``note`` is reported.
        message: what, how often, and the first examples.
        case_ids: every case concerned.
        groups: the same, where cases belong together.
        allowed: whether it was accepted.
    """

    code: str
    severity: Severity
    message: str
    case_ids: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    allowed: bool = False

    @property
    def weight(self) -> str:
        """``stop``, ``note``, or ``accepted``."""
        return "accepted" if self.allowed else self.severity


class ClassCounts(Part):
    """How many cases have a class, have it not, or are unknown; the patients who have it; cases of each part.

    The parts are None where the cohort is not divided yet.
    """

    name: str = Field(validation_alias="class", serialization_alias="class")
    positive: int
    negative: int
    unknown: int
    patients: int
    train: int | None = None
    val: int | None = None
    test: int | None = None


class PartSize(Part):
    """How large a part is."""

    part: str
    cases: int
    patients: int


class ViewImages(Part):
    """What the images of a view are like.

    Attributes:
        view: its name.
        images, grey, colour: how many images, with one channel, and with three.
        width, height, depth: in pixels; depth of volumes.
        lowest, highest, spread: intensities in the images' own unit; spread between two percentiles.
        twin_correlation: from which on two images count as copies, or None where there are too few.
        orientations, planes, units, lateralities, view_positions: how many images have each, as far as they
            say; orientations are the directions in which columns, rows and slices grow.
        warnings: how many images have each code of ``io.codes``.
    """

    view: str
    images: int
    grey: int
    colour: int
    width: Range | None = None
    height: Range | None = None
    depth: Range | None = None
    lowest: Range | None = None
    highest: Range | None = None
    spread: Range | None = None
    twin_correlation: float | None = None
    orientations: dict[str, int] = Field(default_factory=dict)
    planes: dict[str, int] = Field(default_factory=dict)
    units: dict[str, int] = Field(default_factory=dict)
    lateralities: dict[str, int] = Field(default_factory=dict)
    view_positions: dict[str, int] = Field(default_factory=dict)
    warnings: dict[str, int] = Field(default_factory=dict)


class CohortTables(Part):
    """Counts and ranges: of each class, each part if there are any, and the images of each view."""

    classes: tuple[ClassCounts, ...]
    parts: tuple[PartSize, ...] = ()
    images: tuple[ViewImages, ...] = ()


class Audit(ResultFile):
    """Everything that was found.

    Attributes:
        findings: the stopping ones first.
        groups: ids of cases whose images are copies of each other, exact or near.
        tables: counts and ranges.
        allowed: codes that are accepted.
        cases, patients: how many there are.
        manifest: path of the CSV.
        manifest_sha256: of the manifest that was audited.
    """

    NAME: ClassVar[str] = "audit.json"
    MADE_BY: ClassVar[str] = "audit"

    findings: tuple[Finding, ...]
    groups: tuple[tuple[str, ...], ...] = ()
    tables: CohortTables
    allowed: tuple[str, ...] = ()
    cases: int
    patients: int
    manifest: str
    manifest_sha256: str

    @property
    def codes(self) -> tuple[str, ...]:
        """Of the findings."""
        return tuple(finding.code for finding in self.findings)

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
