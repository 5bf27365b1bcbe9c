"""Who is who in an export: patients by Patient ID and issuer, never by name; pseudonyms and their key."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from foveate.errors import InputRefused
from foveate.files import write_json

_FORMAT = "foveate-pseudonyms-1"
_LENGTH = 16  # hex digits: two of a million patients collide with a probability of 3 in 10^8


class Pseudonyms:
    """Salted hashes (HMAC-SHA-256) in place of identifiers, and the file that tells who is who.

    Args:
        salt: secret; the same salt gives the same pseudonyms.
        known: identifiers by pseudonym.
    """

    def __init__(self, salt: bytes, known: Mapping[str, str]) -> None:
        self._salt, self._known = salt, dict(known)

    @classmethod
    def at(cls, path: Path) -> Self:
        """Those of a key file, or new ones if there is none yet.

        Raises:
            InputRefused: the file is none.
        """
        if not path.exists():
            return cls(secrets.token_bytes(32), {})
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise ValueError("of another format")
            return cls(bytes.fromhex(content["salt"]), content["patients"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputRefused(
                f"this is no key file of pseudonyms ({error})",
                where=str(path),
                fix="name the file that an earlier `--pseudonyms` wrote, or one that is not there yet",
                code="pseudonyms-damaged",
            ) from error

    def patient(self, identifier: str) -> str:
        """Pseudonym of a patient, which the key file will tell."""
        pseudonym = f"p{self.hidden(identifier)}"
        self._known[pseudonym] = identifier
        return pseudonym

    def hidden(self, text: str) -> str:
        """Salted hash of any other identifier."""
        return hmac.new(self._salt, text.encode(), hashlib.sha256).hexdigest()[:_LENGTH]

    def save(self, path: Path) -> None:
        """Write the key file, for its owner's eyes alone."""
        write_json(path, {"format": _FORMAT, "salt": self._salt.hex(), "patients": self._known})
        path.chmod(0o600)


class PatientNames:
    """Names of patients: ``ID``, or ``ID@ISSUER`` where the files name an issuer.

    An ID that stands with one issuer in some files and with none in others is one patient; with two issuers
    it is two.

    Args:
        issuers: issuers that each Patient ID stands with; an empty one for none.
    """

    def __init__(self, issuers: Mapping[str, set[str]]) -> None:
        self._only = {
            identifier: named.pop()
            for identifier, found in issuers.items()
            if len(named := found - {""}) == 1
        }
        self.ambiguous = sorted(
            identifier
            for identifier, found in issuers.items()
            if identifier and "" in found and len(found) > 2
        )

    def name(self, identifier: str, issuer: str, study: str) -> str:
        """A patient's name; one without an ID is known by the study alone."""
        if not identifier:
            return f"study-{study}"
        issuer = issuer or self._only.get(identifier, "")
        return f"{identifier}@{issuer}" if issuer else identifier
