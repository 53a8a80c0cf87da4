"""Build the docs as a small HTML site: the pages of this folder, and a page a shelf made from the catalogue itself.

    python docs/build.py build/docs
"""

from __future__ import annotations

import contextlib
import html
import inspect
import sys
from pathlib import Path

from markdown_it import MarkdownIt

from thalweg.core import catalogue
from thalweg.core.rule import names_of

HERE = Path(__file__).resolve().parent
STYLE = "body{font:16px/1.6 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}"
STYLE += "pre{overflow-x:auto;background:#f4f4f4;padding:1rem}"
STYLE += "table{border-collapse:collapse}td,th{border-bottom:1px solid #ccc;padding:.25rem .75rem;text-align:left}img{max-width:100%}"

PAGES = ("measuring", "fleet", "optim", "train", "minimize", "calculus", "probes", "trace", "diagnose", "report", "design")


def page(title: str, body: str) -> str:
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    pages = [("index", "start"), ("walkthrough", "walk-through"), *((s, s) for s in PAGES)]
    links = [*pages, *((s, s) for s in catalogue.SHELVES)]
    menu = " · ".join(f'<a href="{name}.html">{label}</a>' for name, label in links)
    return f"{head}<nav>{menu}</nav>{body}</html>"


def shelf_page(name: str) -> str:
    """Every entry: what it says of itself, what it takes and where that is searched, and its code, which is its formula."""
    parts = [f"# {name}\n"]
    for key, entry in catalogue.shelf(name).items():
        parts.append(f"## {key}\n\n{inspect.cleandoc(entry.doc or '')}\n")
        hypers = getattr(entry, "hypers", None) or {}
        if hypers:
            parts.append("| takes | default | allowed | searched |\n|---|---|---|---|")
            for hyper in hypers.values():
                domain = hyper.domain
                search = f"{domain.search[0]:g} to {domain.search[1]:g}, {domain.scale}" if domain.search else ""
                search = search if domain.tuned or not search else f"when asked: {search}"
                allowed = " or ".join(domain.choices) or (domain.kind if domain.kind == "flag" else domain.interval)
                parts.append(f"| {hyper.name} | {hyper.default} | {allowed} | {search} |")
            parts.append("")
        if hasattr(entry, "states"):
            states = ", ".join(f"{n} ({', '.join(names_of(start))})" for n, start in entry.states.items()) or "none"
            parts.append(f"States: {states}.\n")
        function = getattr(entry, "function", entry)
        with contextlib.suppress(OSError, TypeError):
            parts.append(f"```python\n{inspect.getsource(inspect.unwrap(function))}```\n")
    return "\n".join(parts)


def build(out: Path) -> list[Path]:
    """Write the site and return its files."""
    out.mkdir(parents=True, exist_ok=True)
    markdown = MarkdownIt("commonmark").enable("table")
    sources = {"index": (HERE.parent / "README.md").read_text(encoding="utf-8").replace("docs/", "").replace(".md)", ".html)")}
    sources |= {"CONTRIBUTING": (HERE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")}
    sources |= {path.stem: path.read_text(encoding="utf-8") for path in sorted(HERE.glob("*.md"))}
    sources |= {name: shelf_page(name) for name in catalogue.SHELVES}
    written = []
    for name, text in sources.items():
        path = out / f"{name}.html"
        path.write_text(page(name, markdown.render(text)), encoding="utf-8")
        written.append(path)
    for picture in HERE.glob("*.png"):
        (out / picture.name).write_bytes(picture.read_bytes())
    return written


if __name__ == "__main__":
    for path in build(Path(sys.argv[1] if len(sys.argv) > 1 else "build/docs")):
        print(path)
