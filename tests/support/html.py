"""An HTML page taken apart, for tests."""

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "input", "img", "hr"}
LOADING = {"src", "srcset", "data", "poster", "action", "background", "ping"}
"""Attributes by which a page loads something; `href` does in some elements, see `loads`."""


class Parsed(HTMLParser):
    """The content of a page: ids, links, addresses that it loads, and texts by element; unbalanced tags are refused."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], "elements are closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record the attributes and open the element."""
        self._note(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record the attributes of an SVG element without content."""
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost element, which must have this tag."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Record the text under the element that contains it."""
        if self._open and data.strip():
            self.texts.setdefault(self._open[-1], []).append(data.strip())

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            assert not key.startswith("on"), f"{tag} {key}: a handler"
            if key == "id":
                self.ids.append(value or "")
            elif key == "href" and tag == "a":
                self.links.append(value or "")
            elif key in LOADING or key.endswith("href"):
                self.loads.append(value or "")
