"""HTML by hand: everything that comes from a file is escaped, and nothing is fetched."""

import html
from collections.abc import Iterable

# a page may draw what it holds, and nothing else: no script, no address elsewhere
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { --ink: #1b2733; --soft: #5b6b7a; --line: #d5dde5; --blue: #0b5394; --wash: #eef4fa; }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: var(--ink);
  margin: 0 auto; padding: 24px 28px 60px; max-width: 1720px; background: #fff; }
h1 { font-size: 1.55em; margin: 0 0 .2em; } h2 { font-size: 1.2em; margin: 2em 0 .5em; }
p, li { max-width: 62em; } .soft, small { color: var(--soft); } small { font-size: .8em; }
a { color: var(--blue); text-decoration: none; } a:hover { text-decoration: underline; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 7px; text-align: right; white-space: nowrap; vertical-align: top; }
thead th { border-bottom: 1px solid var(--soft); vertical-align: bottom; font-weight: 600; }
tbody tr { border-bottom: 1px solid var(--line); }
tbody.block { border-top: 2px solid var(--ink); }
th.name, td.name { text-align: left; } th.group { text-align: center; }
td.last, th.last { border-right: 1px solid var(--line); }
.results td.name { position: sticky; left: 0; background: #fff; }
td.average { background: var(--wash); }
.best { font-weight: 700; } .second { text-decoration: underline; text-underline-offset: 3px; }
td small { display: block; line-height: 1.3; font-size: .74em; }
td small.alike { color: var(--ink); font-weight: 600; }
label.switch { margin-right: 1.4em; cursor: pointer; }
#show-interval:not(:checked) ~ .wide .interval, #show-p:not(:checked) ~ .wide .p,
#show-seeds:not(:checked) ~ .wide .seeds { display: none; }
.problem { background: #fdf3e1; border-left: 4px solid #c77700; padding: 8px 14px; margin: 1em 0; }
.figure { max-width: 100%; height: auto; }
.charts { display: flex; flex-wrap: wrap; gap: 26px; align-items: flex-start; }
.charts figure { margin: 0; }
figcaption { max-width: 25em; color: var(--soft); font-size: .88em; }
.mistakes { display: flex; flex-wrap: wrap; gap: 16px; }
.mistakes figure { margin: 0; width: 190px; }
.mistakes img { width: 190px; height: 190px; object-fit: contain; background: #000;
  border-radius: 4px; }
.mistakes figcaption { overflow-wrap: anywhere; color: var(--ink); }
.confusion td { text-align: center; min-width: 2.6em; }
.confusion .name { text-align: left; position: sticky; left: 0; background: #fff; }
.dense td { min-width: 1.6em; padding: 2px 3px; font-size: .82em; } .dense th { font-size: .82em; }
.confusion .own { outline: 2px solid #5b6b7a; outline-offset: -2px; }
.confusion th.turned { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; }
details summary { cursor: pointer; color: var(--blue); }
@media print { .switch { display: none; } body { max-width: none; padding: 0; } }
"""


def escaped(text: object) -> str:
    """Return text that a browser shows and never runs, also within an attribute."""
    return html.escape(str(text), quote=True)


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole document; the parts of the body are markup already."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escaped(title)}</title><style>{_STYLE}</style></head><body>",
            *body,
            "</body></html>",
            "",
        ]
    )


def link(address: str, text: object, title: str = "") -> str:
    """Return a link; the address is quoted already."""
    said = f' title="{escaped(title)}"' if title else ""
    return f'<a href="{escaped(address)}"{said}>{escaped(text)}</a>'


def items(lines: Iterable[str]) -> str:
    """Return a list of lines of markup."""
    return "<ul>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"


def rows(head: Iterable[object], lines: Iterable[Iterable[str]], kind: str = "") -> str:
    """Return a table of plain headings and cells of markup; the first column is names."""
    top = "".join(
        f"<th{' class=name' if place == 0 else ''}>{escaped(name)}</th>"
        for place, name in enumerate(head)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=name' if place == 0 else ''}>{cell}</td>"
            for place, cell in enumerate(line)
        )
        + "</tr>"
        for line in lines
    )
    return f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
