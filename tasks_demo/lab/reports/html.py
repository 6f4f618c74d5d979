"""The result as one HTML file: no scripts, nothing loaded from anywhere, light and dark."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from tasks_demo.lab.reports.text import carriable, cell_name, sentences, table

_STYLE = """
:root{color-scheme:light dark;--back:#fff;--text:#1c2024;--line:#d0d5da;--none:#b26a00;--once:#1a7f4b;--more:#b3261e}
@media (prefers-color-scheme:dark){
:root{--back:#14171a;--text:#e4e7ea;--line:#3a4147;--none:#f0a63c;--once:#4cc38a;--more:#ff7b72}}
body{background:var(--back);color:var(--text);font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;
padding:0 1rem}
table{border-collapse:collapse;width:100%}.scroll{overflow-x:auto}
th,td{border-bottom:1px solid var(--line);padding:.35rem .6rem;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.held{color:var(--once)}.broken{color:var(--more)}.unknown{color:var(--none)}
.none{fill:var(--none)}.once{fill:var(--once)}.more{fill:var(--more)}
svg{display:block}li{overflow-wrap:anywhere}
"""
_BAR, _HEIGHT = 200, 14


def as_html(result: Mapping[str, Any]) -> str:
    """The whole document. Everything in the result is escaped."""
    head, rows = table(result)
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in (*head, "charges"))
    body = "".join(
        f"<tr>{_cells(row, cell)}<td>{_picture(cell)}</td></tr>"
        for cell, row in zip(result["cells"], rows, strict=True)
    )
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences(result))
    details = "".join(_detail(cell) for cell in result["cells"])
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    verdict = "as predicted" if result["as_predicted"] else "not as predicted"
    return carriable(
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Experiment: {verdict}</title><style>{_STYLE}</style></head>\n<body>"
        f"<h1>Experiment: {verdict}</h1>"
        f"<p>Seed {escape(str(result['seed']))}, {result['duration_s']:.1f} s, started {escape(result['started_at'])}. "
        f"{escape(versions)}</p>"
        f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'
        f"<h2>In words</h2><ul>{said}</ul><h2>Why</h2>{details}</body>\n</html>\n"
    )


def _cells(row: tuple[str, ...], cell: Mapping[str, Any]) -> str:
    last = len(row) - 1
    classes = {last: escape(cell["observed"]), **dict.fromkeys(range(2, 7), "n")}
    return "".join(
        f'<td class="{classes[i]}">{escape(text)}</td>' if i in classes else f"<td>{escape(text)}</td>"
        for i, text in enumerate(row)
    )


def _picture(cell: Mapping[str, Any]) -> str:
    """A bar of the operations charged never, once, and more often."""
    effects = cell["effects"]
    total = sum(effects.values())
    label = escape(f"{effects['0']} never charged, {effects['1']} charged once, {effects['2+']} charged twice or more")
    colours = {"0": "none", "1": "once", "2+": "more"}
    # One in a million must still be seen; the longest part makes room for it.
    widths = {count: max(2.0, _BAR * effects[count] / total) for count in colours if effects[count]}
    if widths:
        widths[max(widths, key=widths.__getitem__)] -= sum(widths.values()) - _BAR
    parts, start = [], 0.0
    for count, width in widths.items():
        parts.append(f'<rect class="{colours[count]}" x="{start:.1f}" y="0" width="{width:.1f}" height="{_HEIGHT}"/>')
        start += width
    return (
        f'<svg role="img" width="{_BAR}" height="{_HEIGHT}" viewBox="0 0 {_BAR} {_HEIGHT}" aria-label="{label}">'
        f"<title>{label}</title>{''.join(parts)}</svg>"
    )


def _detail(cell: Mapping[str, Any]) -> str:
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in cell["reasons"])
    return (
        f"<h3>{escape(cell_name(cell))}</h3><p>Predicted {escape(cell['predicted'])}: {escape(cell['why'])} "
        f"Observed <b>{escape(cell['observed'])}</b>; a violation in at most {cell['bound_95']:.2%} of the trials "
        f"(95 % bound).</p>" + (f"<ul>{reasons}</ul>" if reasons else "")
    )
