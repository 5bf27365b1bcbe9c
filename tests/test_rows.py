"""CSV files as people make them, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cohort_files import image_folder, problems
from foveate.data.manifest.manifest import load_manifest
from foveate.errors import FoveateError, InputRefused
from foveate.types import Cohort


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return image_folder(tmp_path)


class TestTables:
    @pytest.mark.parametrize(
        "content, message",
        [
            (b"", "empty"),
            (b"\n\n  \n", "empty"),
            (b"\xef\xbb\xbf", "empty"),
            (b"case_id,patient_id,label,image\n", "header but no rows"),
            (b"case_id,patient_id,label,image\n,,,\n\n", "header but no rows"),
            (b"a,b\n1,2\nm\xfcde,3\n", "row 3: byte 0xFC is not UTF-8"),
            (b"PK\x03\x04rest", "workbook"),
            (b"\xd0\xcf\x11\xe0rest", "workbook"),
            ("case_id,label\n1,2\n".encode("utf-16"), "UTF-16"),
            (b"a,b\n1,\x00\n", "zero bytes"),
            (b"a,b,c\n1,2\n", "row 2: has 2 fields, but the header names 3"),
            (b"a,b,a\n1,2,3\n", "more than once: a"),
            (b'a,b\n1,2\n3,"4\n5,6\n', "row 3: the quotes"),
            (b'a,b\n1,2\n3,"4"5\n', "row 3: the quotes"),
            (b"a,b\n1," + b"x" * 200_000 + b"\n", "row 2: the quotes"),
        ],
    )
    def test_what_is_no_table(self, folder: Path, content: bytes, message: str) -> None:
        (found,) = problems(folder, content)
        assert message in found

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputRefused, match="cannot be read") as caught:
            load_manifest(tmp_path / "none.csv")
        assert caught.value.code == "missing-file"

    def test_trailing_separators_are_forgiven(self, folder: Path) -> None:
        (folder / "m.csv").write_text("case_id,patient_id,label,image\n1,1,x,a.png,,\n2,2,y,b.png\n")
        assert len(load_manifest(folder / "m.csv").cases) == 2

    @settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=4)), max_size=6), st.integers(0, 400))
    def test_damaged_tables_end_in_an_error_of_ours(
        self, folder: Path, edits: list[tuple[int, bytes]], length: int
    ) -> None:
        header = "case_id,patient_id,label,image,slice,mask,split"
        lines = (f'c{x},p{x},{"xy"[n % 2]},{x}.png,{n},{x}.png,"train"' for n, x in enumerate("abcdef"))
        content = bytearray("\n".join([header, *lines]).encode())
        for position, insert in edits:
            content[position : position + 1] = insert
        path = folder / "fuzz.csv"
        path.write_bytes(bytes(content[: max(length, 60)]))
        try:
            assert isinstance(load_manifest(path), Cohort)
        except FoveateError as error:
            assert error.exit_code in (2, 3) and str(path) in str(error)
