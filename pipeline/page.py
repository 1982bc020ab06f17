"""The page of the report: one self-contained HTML file, without scripts and without requests to anywhere."""

from typing import Any

from jinja2 import Environment, StrictUndefined

GRID = """\
{% macro left(table, column) %}{% if table.columns[column] in table.words %} class="left"{% endif %}{% endmacro %}
{% macro grid(table) %}
<div class="scroll"><table>
<caption>{{ table.caption }}</caption>
<thead><tr><th scope="col">{{ table.head }}</th>{% for name in table.columns %}\
<th scope="col"{{ left(table, loop.index0) }}>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for title, rows in table.sections %}
<tr class="group"><th colspan="{{ table.columns | length + 1 }}">{{ title }}</th></tr>
{% for name, cells in rows %}
<tr><td>{{ name }}</td>{% for cell in cells %}<td{{ left(table, loop.index0) }}>\
{% if cell.mark == "best" %}<b>{{ cell.mean }}</b>{% elif cell.mark == "second" %}<u>{{ cell.mean }}</u>\
{% else %}{{ cell.mean }}{% endif %}{% if cell.deviation %} <small>± {{ cell.deviation }}</small>{% endif %}</td>\
{% endfor %}</tr>
{% endfor %}
{% endfor %}
</tbody>
</table></div>{% endmacro %}
"""
TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SAMerging benchmark</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .5rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, .text td, .text th, .left { text-align: left; } .wrap td { white-space: normal; }
tr.group th { font-weight: normal; font-style: italic; background: var(--soft); }
caption, figcaption { caption-side: bottom; text-align: left; font-size: .85rem; padding-top: .4rem; }
caption { white-space: normal; position: sticky; left: 0; max-width: min(76rem, 100vw - 3rem); }
p, li, figure { max-width: 60rem; } small { opacity: .75; }
figure { margin: 2rem 0; } figure svg { width: 100%; height: auto; background: #fff; border-radius: 4px; }
details { border: 1px solid var(--line); border-radius: 4px; padding: .4rem .8rem; margin: 1rem 0; }
summary { cursor: pointer; }
</style>
</head>
<body>
<h1>SAMerging benchmark</h1>
<p>Model merging by multi-teacher distillation (arXiv 2512.21288) against its baselines, computed from the runs that
each section names. reports/README.md explains every column and figure.</p>
<nav>{% for suite in suites %}<a href="#{{ suite.name }}">{{ suite.name }}</a> · {% endfor %}\
<a href="#methods">methods</a></nav>
{% for suite in suites %}
<section id="{{ suite.name }}">
<h2>{{ suite.name }}</h2>
<ul>
{% for sentence in suite.sentences %}
<li>{{ sentence }}</li>
{% endfor %}
</ul>
{{ grid(suite.table) }}
<details><summary>Computed from: parameters, versions, origin, hardware and wall time of {{ suite.stages | length }}
stages</summary>
<div class="scroll"><table class="text wrap">
<caption>Parameters of all stages</caption>
{% for key, value in suite.params %}
<tr><th scope="row">{{ key }}</th><td>{{ value }}</td></tr>
{% endfor %}
</table>
<table class="text wrap">
<caption>Versions</caption>
{% for name, version in suite.versions %}
<tr><th scope="row">{{ name }}</th><td>{{ version }}</td></tr>
{% endfor %}
</table>
<table class="text">
<caption>Wall time and peak memory (of the largest process), per stage; measurements, not results</caption>
<tr><th scope="col">stage</th><th scope="col">seconds</th><th scope="col">MiB</th><th scope="col">hardware</th></tr>
{% for row in suite.stages %}
<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</table>
<p>{{ suite.source }}</p>
{% if suite.fetched %}
<table class="text">
<caption>Fetched and verified</caption>
<tr><th scope="col">repository</th><th scope="col">commit</th><th scope="col">files</th><th scope="col">GiB</th></tr>
{% for row in suite.fetched %}
<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endif %}
<table class="text">
<caption>Images that occur among the test images of their task, by content</caption>
<tr><th scope="col">task</th><th scope="col">train</th><th scope="col">validation</th></tr>
{% for row in suite.overlap %}
<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% for warning in suite.warnings %}
<p><b>Warning:</b> {{ warning }}</p>
{% endfor %}
</details>
{% for title, table in suite.beside %}
<h3>{{ title }}</h3>
{{ grid(table) }}
{% endfor %}
{% if suite.diagnosis %}
<h3>Does anything measured before merging predict what it costs?</h3>
<p>{{ suite.diagnosis }}</p>
{% endif %}
{% for figure in suite.figures %}
<figure>
{{ figure.svg }}
<figcaption>{{ figure.caption }}</figcaption>
</figure>
{% endfor %}
</section>
{% endfor %}
<section id="methods">
<h2>Methods</h2>
<table class="text wrap">
<tr><th scope="col">method</th><th scope="col">name</th><th scope="col">reference</th>\
<th scope="col">not verified</th></tr>
{% for name, title, paper, unverified in methods %}
<tr><td>{{ title }}</td><td><code>{{ name }}</code></td><td>{{ paper }}</td><td>{{ unverified }}</td></tr>
{% endfor %}
</table>
</section>
</body>
</html>
"""


def page(**content: Any) -> str:
    """The page of `suites` and `methods`; whatever is not marked as safe is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(GRID + TEMPLATE).render(content)
