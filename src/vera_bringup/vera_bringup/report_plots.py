"""Small plots for the page of an evaluation, as SVG that takes its colours from the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH = 400


def svg(height: float, body: str, label: str, width: float = WIDTH) -> str:
    """A picture with words for who cannot see it."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
        f'{body}</svg>'
    )


def text(x: float, y: float, words: str, anchor: str = 'start', kind: str = '') -> str:
    """Words at a place."""
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'
    )


def interval(rate: float, low: float, high: float) -> str:
    """A rate on the line from 0 to 100% with its interval."""
    left, right, y = 16.0, 604.0, 26.0

    def at(share: float) -> float:
        return left + share * (right - left)

    ticks = ''.join(
        f'<line x1="{at(k / 4):g}" x2="{at(k / 4):g}" y1="{y + 8:g}" y2="{y + 13:g}" '
        f'stroke="var(--line)"/>' + text(at(k / 4), y + 27, f'{25 * k}%', 'middle')
        for k in range(5)
    )
    body = (
        f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" stroke="var(--line)" '
        'stroke-width="16" stroke-linecap="round"/>'
        f'<line x1="{at(low):.1f}" x2="{at(high):.1f}" y1="{y}" y2="{y}" stroke="var(--reached)" '
        'stroke-opacity=".35" stroke-width="16" stroke-linecap="round"/>'
        f'<circle cx="{at(rate):.1f}" cy="{y}" r="8" fill="var(--reached)"/>{ticks}'
    )
    words = f'{rate:.1%}, 95% interval {low:.1%} to {high:.1%}'
    return svg(62, body, words, 620)


def rates(rows: Sequence[tuple[str, float, float, float, int]]) -> str:
    """One line each: name, rate, low, high, n."""
    left, right, step = 150.0, 352.0, 26.0
    body = ''.join(
        f'<line x1="{x:g}" x2="{x:g}" y1="4" y2="{len(rows) * step + 4:g}" stroke="var(--line)"/>'
        for x in (left, (left + right) / 2, right)
    )
    for k, (name, rate, low, high, n) in enumerate(rows):
        y = 18 + k * step
        a, b, c = (left + share * (right - left) for share in (low, rate, high))
        body += (
            text(left - 12, y + 4, _cut(name, 22), 'end', 'name')
            + f'<line x1="{a:.1f}" x2="{c:.1f}" y1="{y:g}" y2="{y:g}" stroke="var(--reached)" '
            'stroke-width="6" stroke-opacity=".35" stroke-linecap="round"/>'
            f'<circle cx="{b:.1f}" cy="{y:g}" r="5" fill="var(--reached)"/>'
            + text(right + 10, y + 4, f'n = {n}')
        )
    bottom = len(rows) * step + 20
    for x, words in ((left, '0'), ((left + right) / 2, '50%'), (right, '100%')):
        body += text(x, bottom, words, 'middle')
    said = '; '.join(f'{name} {rate:.0%} of {n}' for name, rate, _, _, n in rows)
    return svg(bottom + 8, body, said)


def histogram(
    groups: Sequence[tuple[str, Sequence[float]]], unit: str, digits: int = 1, bins: int = 24
) -> str:
    """Bars of one or more groups, (CSS colour, values) each, stacked on the same bins."""
    values = np.concatenate([np.zeros(0), *(np.asarray(v, float) for _, v in groups)])
    if not len(values):
        return ''
    high = float(values.max()) or 1.0
    kinds = np.unique(values.round(6))
    if 1 < len(kinds) < bins:  # a bar for each value
        step = float(np.diff(kinds).min())
        bins = min(bins, round(high / step) + 1)
    edges = np.linspace(0, high * (1 + 1e-9), bins + 1)
    counts = [np.histogram(v, edges)[0] for _, v in groups]
    top = int(np.sum(counts, axis=0).max())
    left, right, floor, ceiling = 12.0, WIDTH - 12.0, 128.0, 12.0
    width = (right - left) / bins
    body = f'<line x1="{left}" x2="{right}" y1="{floor}" y2="{floor}" stroke="var(--line)"/>'
    below = np.zeros(bins)
    for (colour, _), count in zip(groups, counts, strict=True):
        for k in np.flatnonzero(count):
            y0, y1 = (floor - (floor - ceiling) * v / top for v in (below[k], below[k] + count[k]))
            body += (
                f'<rect x="{left + k * width + 1:.1f}" y="{y1:.1f}" width="{width - 2:.1f}" '
                f'height="{max(y0 - y1, 1):.1f}" rx="2" fill="{colour}"/>'
            )
        below = below + count
    for share, anchor in ((0, 'start'), (0.5, 'middle'), (1, 'end')):
        body += text(
            left + share * (right - left), floor + 18, f'{share * high:.{digits}f} {unit}', anchor
        )
    median = float(np.median(values))
    return svg(
        150, body, f'{len(values)} values from 0 to {high:.{digits}f} {unit}, '
        f'median {median:.{digits}f}',
    )


def four_fields(cells: Sequence[Sequence[int]], reached: Sequence[Sequence[int]]) -> str:
    """Dream right or wrong against execution right or wrong: episodes, and how many reached."""
    total = max(sum(map(sum, cells)), 1)
    left, top, width, height = 112.0, 30.0, 138.0, 54.0
    body = text(left + width / 2, 18, 'it came true', 'middle')
    body += text(left + 1.5 * width + 6, 18, 'it did not', 'middle')
    said = []
    for i, name in enumerate(('dream right', 'dream wrong')):
        body += text(left - 14, top + i * (height + 6) + 31, name, 'end', 'name')
        for j in range(2):
            n, hits = cells[i][j], reached[i][j]
            x, y = left + j * (width + 6), top + i * (height + 6)
            body += (
                f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" '
                f'fill="var(--reached)" fill-opacity="{0.06 + 0.5 * n / total:.2f}"/>'
                + text(x + width / 2, y + 24, f'{n} episode{"s" * (n != 1)}', 'middle', 'name')
                + text(x + width / 2, y + 42, f'{hits} reached' if n else '', 'middle')
            )
            said.append(f'{name}, {"came true" if j == 0 else "did not"}: {n}, {hits} reached')
    return svg(152, body, '; '.join(said))


def _cut(words: str, length: int) -> str:
    return words if len(words) <= length else words[: length - 1] + '…'
