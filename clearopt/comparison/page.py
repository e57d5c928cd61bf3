"""What a report's page is made of: one file, tables that sort, nothing asked of the network."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape

from clearopt.comparison.svg import COLOURS, marker


def document(title: str, body: Iterable[str]) -> str:
    """The page's text around its parts; empty parts are left out."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + f"\n</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def section(heading: str, content: str, note: str = "") -> str:
    """A heading, a note in small letters, and what stands below; nothing without content."""
    if not content:
        return ""
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section>\n<h2>{escape(heading)}</h2>\n{said}{content}\n</section>"


def legend(order: Mapping[str, int]) -> str:
    """The marker of each series beside its name."""
    entries = "".join(
        f'<span><svg viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">'
        f"{marker(7, 7, number)}</svg> {escape(name)}</span>"
        for name, number in order.items()
    )
    return f'<p class="legend">{entries}</p>'


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, words: Collection[str] = ()
) -> str:
    """Columns sort by a click on their heading: those named in `words` as text, else as numbers."""
    kinds = ["w" if name in words else "n" for name in header]
    heads = "".join(
        f'<th class="{kind}" scope="col"><button type="button">{escape(name)}</button></th>'
        for name, kind in zip(header, kinds, strict=True)
    )
    lines_of = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}">{escape(cell)}</td>' for cell, kind in zip(row, kinds, strict=True)
        )
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead>\n<tbody>\n{lines_of}</tbody>'
        "</table></div>"
    )


def listed(notes: Sequence[str]) -> str:
    """Sentences as a list."""
    if not notes:
        return ""
    return "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def definitions(entries: Mapping[str, object]) -> str:
    """Names and what they are, in two columns."""
    pairs = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(_said(value))}</dd>" for name, value in entries.items()
    )
    return f"<dl>{pairs}</dl>" if pairs else ""


def _said(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


# ---------------------------------------------------------------------- style and script
# Okabe and Ito's colours, told apart by colour-blind readers; lighter on a dark page.
_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#6a3d9a", "#555555")
_DARK = ("#5ab4f0", "#ff8c42", "#3fd6a8", "#f0a6cf", "#e8cf4a", "#9bd8ff", "#bf9bea", "#b8b8b8")
assert len(_LIGHT) == len(_DARK) == COLOURS


def _variables(colours: Sequence[str]) -> str:
    return "".join(f"--c{k}:{colour};" for k, colour in enumerate(colours))


_STYLE = (
    f":root{{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--rule:#d8dee4;--page:#ffffff;"
    f"--good:#116329;--bad:#a40e26;{_variables(_LIGHT)}}}\n"
    "@media (prefers-color-scheme: dark){:root{--ink:#e6edf3;--soft:#9aa5b1;--rule:#3a424c;"
    f"--page:#14181d;--good:#56d364;--bad:#ff7b72;{_variables(_DARK)}}}}}\n"
    "body{margin:0;background:var(--page);color:var(--ink);"
    "font:15px/1.5 system-ui,sans-serif}\n"
    "main{max-width:1180px;margin:0 auto;padding:24px 20px 60px}\n"
    "h1{font-size:26px;margin:0 0 8px}h2{font-size:18px;margin:36px 0 6px}\n"
    ".note{color:var(--soft);margin:0 0 10px;max-width:75ch}\n"
    ".good{color:var(--good)}.bad{color:var(--bad);border-left:4px solid;padding-left:12px}\n"
    ".legend{display:flex;flex-wrap:wrap;gap:4px 18px;position:sticky;top:0;padding:8px 0;"
    "background:var(--page)}\n"
    ".legend svg{vertical-align:-2px}\n"
    ".wide{overflow-x:auto}\n"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:4px 10px;border-bottom:1px solid var(--rule);white-space:nowrap}\n"
    "td:last-child.w{white-space:normal;min-width:260px}\n"
    ".w{text-align:left}.n{text-align:right}\n"
    "th button{all:unset;cursor:pointer;font-weight:600}\n"
    "th button:focus-visible{outline:2px solid currentColor}\n"
    'th[aria-sort="ascending"] button::after{content:" \\25b2"}\n'
    'th[aria-sort="descending"] button::after{content:" \\25bc"}\n'
    "svg{max-width:100%;height:auto}svg text{fill:var(--ink)}svg .label{fill:var(--soft)}\n"
    ".grid{stroke:var(--rule);stroke-width:1}\n"
    ".line{fill:none;stroke-width:2}.dashed{stroke-dasharray:5 4;opacity:.85}\n"
    ".mark{stroke:var(--page);stroke-width:1}\n"
    + "".join(
        f".line.c{k}{{stroke:var(--c{k})}}.mark.c{k}{{fill:var(--c{k})}}\n" for k in range(COLOURS)
    )
    + ".figures{display:flex;flex-wrap:wrap;gap:16px}figure{margin:0}\n"
    "figcaption{font-weight:600}\n"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px}dd{margin:0}\n"
    "dt{color:var(--soft)}\n"
)

_SCRIPT = """
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const column = head.cellIndex, number = head.classList.contains("n");
    const value = row => {
      const text = row.cells[column].textContent;
      return number ? (text === "-" ? Infinity : parseFloat(text)) : text;
    };
    const rows = [...body.rows].sort((first, second) => {
      const a = value(first), b = value(second);
      return (number ? (a > b) - (a < b) : a.localeCompare(b)) * (up ? 1 : -1);
    });
    body.append(...rows);
  });
}
"""
