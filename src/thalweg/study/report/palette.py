"""Colours, symbols and dashes of the series: told apart by colour-blind eyes, and in grey by symbol and dash."""

from __future__ import annotations

from thalweg.core.canvas import COLOURS as LIGHT

DARK = ("#0088d5", "#dc693e", "#4ecf91", "#c18cb7", "#eaaa2a", "#9acbff", "#fef04e", "#c5cfcc")
"""Found by search: 3:1 against the page, and any two far apart (18 in CIE Lab) also without red, green or blue cones."""

PAGES = ("#ffffff", "#14181d")
"""The pages that LIGHT and DARK stand on."""

COLOURS = len(LIGHT)

SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "star", "hourglass")
"""One a series, on its lines and points; a second channel beside the colour."""

DASHES = ("solid", "dash", "dot", "dashdot")
"""After eight series colours and symbols repeat, and the dash changes."""

GLYPHS = {
    "circle": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
    "square": "M-4-4h8v8h-8z",
    "triangle-up": "M0-5L5 4H-5z",
    "diamond": "M0-5.5L5.5 0L0 5.5L-5.5 0z",
    "cross": "M-1.8-5h3.6v3.2H5v3.6H1.8V5h-3.6V1.8H-5v-3.6h3.2z",
    "triangle-down": "M0 5L5-4H-5z",
    "star": "M0-6L1.6-2.2L5.7-1.9L2.6 .8L3.5 4.9L0 2.7L-3.5 4.9L-2.6 .8L-5.7-1.9L-1.6-2.2z",
    "hourglass": "M-4.5-5h9L-4.5 5h9z",
}
"""The symbols as SVG paths around the origin, for the legend."""

STROKES = {"solid": "", "dash": "6 3", "dot": "2 3", "dashdot": "7 2 2 2"}
"""The dashes as SVG dash arrays, for the legend."""


def look(k: int) -> dict[str, int | str]:
    """How series `k` (0, 1, ...) looks: the number of its colour, symbol and dash; 32 series differ.

    >>> look(1), look(9)["dash"]
    ({'colour': 1, 'symbol': 'square', 'dash': 'solid'}, 'dash')
    """
    return {"colour": k % COLOURS, "symbol": SYMBOLS[k % len(SYMBOLS)], "dash": DASHES[k // COLOURS % len(DASHES)]}


def css() -> str:
    """The colours as CSS variables --c0 ... --c7: a pair of declarations, light and dark."""

    def block(colours: tuple[str, ...]) -> str:
        return " ".join(f"--c{k}: {colour};" for k, colour in enumerate(colours))

    dark = f"@media (prefers-color-scheme: dark) {{ :root:not(.light) {{ {block(DARK)} }} }}"
    return f":root {{ {block(LIGHT)} }}\n{dark}"
