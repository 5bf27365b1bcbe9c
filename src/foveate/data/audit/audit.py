"""The audit: leakage, duplicates, contradictory labels and unusable images, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from foveate.data.audit import acquisition
from foveate.data.audit.findings import CHECKS, SEVERITY, Check
from foveate.data.audit.gathered import Evidence, gather
from foveate.data.audit.tables import make_tables
from foveate.data.manifest.rows import closest
from foveate.errors import UsageError
from foveate.evaluate.results.audit import Audit
from foveate.evaluate.results.splits import Splits
from foveate.study.settings import PreprocessConfig
from foveate.types import Cohort, Track, quiet


def audit_cohort(
    cohort: Cohort,
    *,
    splits: Splits | None = None,
    allow: Sequence[str] = (),
    more: Sequence[Check] = (),
    preprocess: PreprocessConfig | None = None,
    track: Track = quiet,
) -> Audit:
    """Look at every image once and at every part.

    Args:
        cohort: from ``load_manifest``.
        splits: the parts, if there are any already. None: the manifest's own column ``split``.
        allow: codes of findings to accept.
        more: checks beside the usual ones.
        preprocess: of a study: whether it puts right what differs decides what stops.
        track: shows progress.

    Returns:
        The audit; call ``raise_if_stopped`` on it before going on.

    Raises:
        UsageError: a code in ``allow`` does not exist.
    """
    check_codes(allow)
    return judge(gather(cohort, splits, track, preprocess), allow=allow, more=more)


def check_codes(codes: Sequence[str]) -> None:
    """Refuse codes of findings that do not exist.

    Raises:
        UsageError: there is one.
    """
    for code in codes:
        if code not in SEVERITY:
            raise UsageError(f"the audit knows no code '{code}'", where="allow", fix=closest(code, SEVERITY))


def judge(evidence: Evidence, *, allow: Sequence[str] = (), more: Sequence[Check] = ()) -> Audit:
    """The audit of what was gathered; arguments as of ``audit_cohort``."""
    cohort = evidence.cohort
    found = [finding for check in (*CHECKS, *acquisition.CHECKS, *more) for finding in check(evidence)]
    found = [
        finding.model_copy(update={"allowed": finding.severity == "stop" and finding.code in allow})
        for finding in found
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
    )
