"""Hold the package to its habits: short functions, short files, few positional arguments.

Counts lines of code only: no docstrings, comments or blank lines. Exits with 1 and a list if nine in ten
functions are not within 30 lines, a file has 400 lines or more, or a function takes more than 6 positional
arguments.
"""

from __future__ import annotations

import ast
import math
import sys
from pathlib import Path

FUNCTION_LINES, FILE_LINES, POSITIONAL = 30, 400, 6
Function = ast.FunctionDef | ast.AsyncFunctionDef


def main(root: Path) -> int:
    """Check every module below ``root``; returns the exit code."""
    lengths, problems = [], []
    for path in sorted(root.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        if len(lines) >= FILE_LINES:
            problems.append(f"{path}: {len(lines)} lines; fewer than {FILE_LINES} are allowed")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, Function):
                name = f"{path}:{node.lineno} {node.name}"
                lengths.append((code_lines(node, lines), name))
                if positional(node) > POSITIONAL:
                    problems.append(f"{name}: {positional(node)} positional arguments")
    lengths.sort(reverse=True)
    ninth = lengths[len(lengths) - math.ceil(0.9 * len(lengths))][0]
    print(f"{len(lengths)} functions; nine in ten have at most {ninth} lines of code. The longest:")
    print("\n".join(f"  {length:3d}  {name}" for length, name in lengths[:5]))
    if ninth > FUNCTION_LINES:
        problems.append(f"the 90th percentile of function length is {ninth}, above {FUNCTION_LINES}")
    print("\n".join(problems) or "no problems")
    return int(bool(problems))


def positional(function: Function) -> int:
    """Arguments that a caller may pass by position; Typer calls its commands by name."""
    if any(
        isinstance(item, ast.Call) and ast.unparse(item.func) == "app.command"
        for item in function.decorator_list
    ):
        return 0
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return len([name for name in names if name not in ("self", "cls")])


def code_lines(function: Function, lines: list[str]) -> int:
    """Lines of a function that hold code: its signature and body without docstring, comments and blanks."""
    first = function.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str)
    skipped = range(first.lineno, (first.end_lineno or first.lineno) + 1) if has_docstring else range(0)
    numbers = range(function.lineno, (function.end_lineno or function.lineno) + 1)
    texts = (lines[number - 1].strip() for number in numbers if number not in skipped)
    return sum(bool(text) and not text.startswith("#") for text in texts)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "src/foveate")))
