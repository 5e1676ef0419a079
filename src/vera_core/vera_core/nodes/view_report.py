"""How well the images of several cameras meet, on /diagnostics."""

from __future__ import annotations

from vera_core.nodes.base import OK, WARN, VeraNode
from vera_core.views import ViewAssembler


def report_views(node: VeraNode, views: ViewAssembler) -> None:
    """Report `views`: sets, skew, what was left out; nothing for one camera."""
    if len(node.contract.cameras) < 2:
        return
    stats = views.stats
    node.report(
        'views', WARN if stats.problem else OK, stats.problem or 'matched in time',
        sets=stats.sets,
        skew_p50_ms=f'{1e3 * stats.skew_p50:.1f}',
        skew_p99_ms=f'{1e3 * stats.skew_p99:.1f}',
        **{f'dropped_for_{name}': count for name, count in stats.dropped.items()},
    )


__all__ = ['report_views']
