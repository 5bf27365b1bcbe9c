"""A Parquet file as the text of its cells, so that it is read by the rules of a CSV (extra ``scale``).

Integers are written out whole, fractions as Python writes them. Fractions from 2^53 on have lost digits; they
stand in scientific notation, as which names of patients and cases are refused. Lists and bytes are no cells.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foveate.errors import ManifestRefused, MissingExtra

MAGIC = b"PAR1"
_EXACT = 2**53  # whole numbers below are exact as doubles
_ROWS = 10_000  # at once in memory


def pyarrow() -> tuple[Any, Any]:
    """``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise MissingExtra("scale") from None


def parquet_records(path: Path, content: bytes | None) -> Iterator[tuple[int, list[str]]]:
    """The header and every row as text, numbered as the lines of a CSV: the header is 1.

    Args:
        path: the file.
        content: its bytes, where they are at hand.

    Raises:
        ManifestRefused: it is damaged, or a column holds what is no cell of a table.
        MissingExtra: ``pyarrow`` is not installed.
    """
    arrow, parquet = pyarrow()
    try:
        with parquet.ParquetFile(path if content is None else io.BytesIO(content)) as file:
            names = file.schema_arrow.names
            _refuse_nested(path, arrow, file.schema_arrow)
            yield 1, [str(name) for name in names]
            line = 2
            for batch in file.iter_batches(_ROWS):
                columns = [[_text(value) for value in column.to_pylist()] for column in batch.columns]
                yield from enumerate(map(list, zip(*columns, strict=True)), start=line)
                line += batch.num_rows
    except (arrow.ArrowException, OSError) as error:
        raise ManifestRefused(str(path), [f"this Parquet file cannot be read: {error}"]) from None


def _refuse_nested(path: Path, arrow: Any, schema: Any) -> None:
    types = arrow.types
    bad = [
        field.name
        for field in schema
        if types.is_nested(field.type) or types.is_binary(field.type) or types.is_large_binary(field.type)
    ]
    if bad:
        problem = f"header: the columns {', '.join(bad)} hold lists or bytes, which are no cells of a table"
        raise ManifestRefused(str(path), [problem])


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float) and abs(value) >= _EXACT:
        return f"{value:.16e}"
    return str(value)
