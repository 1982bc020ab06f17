"""The page builder: contents, anchors, escapes, the policy, and figures for light and dark."""

import base64
import hashlib
import re
from html import escape
from pathlib import Path

import pytest
from matplotlib.figure import Figure as Canvas

from pipeline.report import figures
from pipeline.report.page import Entries, Figure, Fold, Grid, Link, MethodEntry, Page, Prose, Section, cite, render_page
from pipeline.report.tables import Cell, Table
from pipeline.report.views import diagnosis
from tests.support.html import Parsed

TEMPLATES = Path("pipeline/report/templates")
HOSTILE = """</script><script>alert("1")</script>' & </style><b onclick='x'>"""
ROWS = (
    ("First group", (("one", (Cell("1.0", "0.1", "best"), Cell("w", "", ""))),)),
    ("", (("two", (Cell("−2.0", "", "second"), Cell("v", "", ""))),)),
)


def page_of(text):
    """Make a page with `text` in every place for text."""
    links = (Link(text, "there.csv"),)
    table = Table(
        text, (text, f"{text} "), ((text, ((text, (Cell(text, text, "best"), Cell(text, "", "second"))),)),), text
    )
    blocks = (
        Prose((text,), (text,), text, "prose", links),
        Grid("grid", text, table, links, {text: "#entry"}),
        Figure("figure", text, "<svg></svg>", text, links),
        Entries((MethodEntry("entry", text, text, text, text),)),
        Fold("fold", text, (Prose((text,)), Grid("inner", text, table))),
    )
    return Page(text, (Prose((text,)),), (Section("section", text, blocks),), (Link(text, "studies.html"),))


def render_grid(table, **more):
    return render_page(Page("P", (), (Section("s", "S", (Grid("g", "G", table, **more),)),)))


def test_text_is_escaped_everywhere():
    html, plain = (render_page(page_of(text)) for text in (HOSTILE, "plain"))
    assert html.count("<script") == html.count("</script>") == 1
    assert re.findall(r"<(\w+)", html) == re.findall(r"<(\w+)", plain), "no element came from a text"
    occurrences = plain.split("<body>")[1].count("plain")
    assert occurrences > 25
    assert (
        html.split("<body>")[1].count(str(escape(HOSTILE)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"))
        == occurrences
    )
    Parsed(html)


def test_contents_lead_to_every_titled_block_and_sister_page():
    page = Parsed(render_page(page_of("t")))
    assert len(page.ids) == len(set(page.ids))
    anchors = {link[1:] for link in page.links if link.startswith("#")}
    assert {"section", "prose", "grid", "figure", "fold", "entry", "inner"} <= anchors <= set(page.ids)
    assert {link for link in page.links if not link.startswith("#")} == {"there.csv", "studies.html"}
    assert page.loads == ["data:,"]


def test_a_page_without_sister_pages_links_only_to_itself():
    links = Parsed(render_page(Page("P", (), (Section("s", "S", ()),)))).links
    assert set(links) == {"#s"}


def test_the_policy_allows_the_pages_own_script_and_no_request():
    html = render_page(page_of("t"))
    script = re.search(r"(?s)<script>(.*?)</script>", html)[1]
    assert script == (TEMPLATES / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1].replace("&#39;", "'")
    assert policy == (f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'")


def test_a_table_has_a_body_per_group_and_headings_of_rows():
    html = render_grid(Table("Caption", ("n", "why"), ROWS, "Name", ("why",)), rows={"one": "#s"})
    assert html.count("<tbody>") == 2
    assert html.count('<tr class="group">') == 1, "a group without a title has no heading"
    assert '<th scope="col">Name</th><th scope="col">n</th><th scope="col" class="words">why</th>' in html
    assert '<th scope="row"><a href="#s">one</a></th><td><b>1.0</b> <small>±&nbsp;0.1</small></td>' in html
    assert '<th scope="row">two</th><td><u>−2.0</u> <small></small></td><td class="words">v</td>' in html


@pytest.mark.parametrize(("columns", "wide"), [(9, False), (10, True)])
def test_wide_tables_are_marked_for_print(columns, wide):
    cells = tuple(Cell("1", "", "") for _ in range(columns))
    html = render_grid(Table("", tuple(map(str, range(columns))), (("", (("r", cells),)),)))
    assert ('class="grid wide"' in html) is wide


def test_papers_on_arxiv_are_linked_and_the_rest_is_escaped():
    link = '<a href="https://arxiv.org/abs/2512.21288">arXiv 2512.21288</a>'
    assert cite("<A> & arXiv 2512.21288, arXiv 12") == f"&lt;A&gt; &amp; {link}, arXiv 12"


@pytest.fixture
def drawn():
    canvas = Canvas((2, 2))
    axes = canvas.add_subplot()
    axes.plot([0, 1], [0, 1], color="#000000")
    axes.plot([0, 1], [1, 0], color="#0072B2")
    axes.text(0.2, 0.2, "dark", color=diagnosis.DARK)
    axes.text(0.4, 0.4, "light", color=diagnosis.LIGHT)
    axes.set_title("black")
    return canvas


def test_an_inline_figure_takes_the_colours_of_the_page(drawn):
    svg, file = figures.inline(drawn, "n", 50), figures.render_figure(drawn, "svg", "n", 50).decode()
    assert svg.startswith("<svg ")
    assert 'fill="currentColor"' in svg[: svg.index(">")]
    assert "#000000" in file
    assert "#000000" not in svg
    assert "stroke: #0072b2" in svg, "other colours stay"
    assert re.findall(rf"fill: ({diagnosis.DARK}|{diagnosis.LIGHT})", svg) == [diagnosis.DARK, diagnosis.LIGHT]
    assert file.count(f"fill: {diagnosis.LIGHT}") == 3, "the file has a background of figure and axes"
    assert "<!-- black -->" in file
    assert not re.search("<metadata|<!--", svg)
    assert svg == figures.inline(drawn, "n", 50)
    assert all(name.startswith("n-") for name in Parsed(svg).ids)
