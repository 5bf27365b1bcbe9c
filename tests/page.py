"""A web page as a tree, for tests that read what a reader would see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "image", "use", "path", "rect", "img", "hr", "input"}


@dataclass
class Node:
    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text below this element, with runs of white space as one space."""
        return " ".join("".join(self._texts()).split())

    @property
    def numbers(self) -> list[float]:
        """The exact values of all ``<data>`` elements below this one."""
        return [float(node.attributes["value"]) for node in self.all("data")]

    def all(self, tag: str = "", **attributes: str) -> list[Node]:
        """Every element below this one with a tag and attributes (``data_case`` stands for ``data-case``)."""
        wanted = {name.replace("_", "-").strip("-"): value for name, value in attributes.items()}
        return [
            node
            for node in self._below()
            if tag in ("", node.tag)
            and all(value == node.attributes.get(name) for name, value in wanted.items())
        ]

    def one(self, tag: str = "", **attributes: str) -> Node:
        """The only such element."""
        (found,) = self.all(tag, **attributes)
        return found

    def _below(self) -> Iterator[Node]:
        for child in self.children:
            if isinstance(child, Node):
                yield child
                yield from child._below()

    def _texts(self) -> Iterator[str]:
        for child in self.children:
            if isinstance(child, str):
                yield child
            else:
                yield from child._texts()


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("")
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].children.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)


def parse(html: str) -> Node:
    """Read a page; elements that are not closed properly are an error."""
    builder = _Builder()
    builder.feed(html)
    builder.close()
    assert len(builder._open) == 1, f"<{builder._open[-1].tag}> is never closed"
    return builder.root
