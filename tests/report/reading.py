"""A page as a reader sees it: elements, their attributes, and text, by html.parser alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}


@dataclass
class Node:
    tag: str
    attributes: dict[str, str]
    children: list[Node | str] = field(default_factory=list)

    def all(self, tag: str, css: str | None = None) -> list[Node]:
        found = []
        for child in self.children:
            if isinstance(child, Node):
                if child.tag == tag and (css is None or css in child.attributes.get("class", "").split()):
                    found.append(child)
                found += child.all(tag, css)
        return found

    def every(self) -> list[Node]:
        inner = [child for child in self.children if isinstance(child, Node)]
        return inner + [node for child in inner for node in child.every()]

    def one(self, identity: str) -> Node:
        (found,) = (node for node in self.every() if node.attributes.get("id") == identity)
        return found

    def text(self) -> str:
        inner = (child if isinstance(child, str) else child.text() for child in self.children)
        return " ".join("".join(inner).split()) if self.tag not in ("pre", "bdi") else "".join(inner)


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
            self.open.pop()

    def handle_data(self, data):
        self.open[-1].children.append(data)


def read(html: str) -> Node:
    """The tree of a page; an element that is closed in the wrong place is an error."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == [reader.root]
    return reader.root


def percent(text: str) -> float:
    assert text.endswith("%"), text
    return float(text[:-1])
