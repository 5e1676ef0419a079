"""The page of an evaluation: one HTML file with numbers, plots and the worst episodes as videos."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vera_bringup import report_plots as plots
from vera_bringup.episode_story import story
from vera_bringup.episode_videos import worst_first
from vera_bringup.report_style import STYLE
from vera_bringup.statistics import REACHED, RESTED, TIME, WRONG, EpisodeResult, wilson

COLOURS = {REACHED: '--reached', WRONG: '--wrong', RESTED: '--rested', TIME: '--time'}


def write_report(
    path: Path,
    about: Mapping[str, Any],
    summary: Mapping[str, Any],
    results: Sequence[EpisodeResult],
    videos: Sequence[tuple[EpisodeResult, Path]] = (),
    unit: str = 'px',
) -> None:
    """Write the page; it needs nothing beside itself.

    Args:
        path: of the HTML file, replaced at once.
        about: what was evaluated, of `evaluation.about`.
        summary: of `statistics.summarise`.
        results: all episodes.
        videos: of the worst of them.
        unit: of the environment's distances.
    """
    results = sorted(results, key=lambda one: one.index)
    body = '\n'.join((
        _head(about, summary), _tiles(summary), _episodes(results), _charts(results, summary),
        _films(videos, unit), _failures(results, unit), _all(results, unit), _made(about),
    ))
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(_title(about))}: {summary["success_rate"]:.0%}</title>\n'
        f'<style>{STYLE}</style></head>\n'
        f'<body><main>\n{body}\n</main></body></html>\n'
    )
    partial = path.with_suffix('.partial')
    partial.write_text(page, encoding='utf-8')
    partial.replace(path)


def _title(about: Mapping[str, Any]) -> str:
    return f'{about["embodiment"]}: {about["planner"]} + {about["translator"]}'


def _head(about: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    how = 'lock-step: time waits for the planner'
    if about['loop'] != 'lockstep':
        how = f'{about["loop"]}, a planner {about["latency"]:g} s late'
    words = 'phrasings of the training'
    if about['held_out']:
        words = 'phrasings that training never saw'
    low, high = summary['ci_low'], summary['ci_high']
    return (
        f'<h1>{escape(_title(about))}</h1>'
        f'<p class="soft">{summary["n"]} uniform starts, seed {about["seed"]}, {words}; {how}.'
        f'{" Through the node graph." if about["ros"] else ""}</p>'
        f'<div class="hero"><div><b>{summary["success_rate"]:.1%}</b><br><span class="soft">'
        f'success, 95% interval {low:.1%} to {high:.1%}</span></div>'
        f'{plots.interval(summary["success_rate"], low, high)}</div>'
    )


def _tiles(summary: Mapping[str, Any]) -> str:
    def seconds(value: float) -> str:
        return f'{value:.2f} s'

    tiles = [('progress, mean', f'{summary["progress"]:.2f}', 'share of the way, 0 to 1')]
    for key, name, why in (
        ('dream_success', 'dream success', 'plans show what the expert would do'),
        ('execution_success', 'execution success', 'what was dreamt came true'),
    ):
        if key in summary and summary[key]['n']:
            one = summary[key]
            tiles.append((name, f'{one["rate"]:.1%}', f'{why}, {one["n"]} episodes'))
    for key, name, shown, why in (
        ('seconds_to_goal', 'time to the goal', seconds, 'median of those reached'),
        ('plan_age_p50', 'plan age', seconds, f'p95 {_number(summary.get("plan_age_p95"))} s'),
        ('underruns_per_minute', 'underruns a minute', '{:.1f}'.format, 'the actions ran out'),
        ('jerk', 'jerk', '{:.1f}'.format, "root mean square, joints' unit/s³"),
        ('clip_ratio', 'clip ratio', '{:.1%}'.format, 'set-points that the filter changed'),
        ('replan_ms_p50', 'one plan', '{:.0f} ms'.format,
         f'p95 {_number(summary.get("replan_ms_p95"), 0)} ms, this machine'),
    ):
        if summary.get(key) is not None:
            tiles.append((name, shown(summary[key]), why))
    return '<div class="tiles">' + ''.join(
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b>'
        f'<span>{escape(why)}</span></div>'
        for name, value, why in tiles
    ) + '</div>'


def _number(value: float | None, digits: int = 2) -> str:
    return '-' if value is None else f'{value:.{digits}f}'


def _colour(outcome: str) -> str:
    return f'var({COLOURS.get(outcome, "--other")})'


def _episodes(results: Sequence[EpisodeResult]) -> str:
    squares = ''.join(
        f'<a href="#e{r.index}" style="background:{_colour(r.outcome)}" '
        f'title="{escape(f"{r.index}: {r.prompt} - {r.outcome}, {r.duration:.1f} s")}" '
        f'aria-label="{escape(f"episode {r.index}: {r.outcome}")}"></a>'
        for r in results
    )
    outcomes = sorted({r.outcome for r in results}, key=lambda name: (name != REACHED, name))
    legend = ''.join(
        f'<span><i style="background:{_colour(name)}"></i>{escape(name)}: '
        f'{sum(r.outcome == name for r in results)}</span>'
        for name in outcomes
    )
    return (
        f'<h2>Every episode</h2><div class="card"><div class="squares">{squares}</div>'
        f'<div class="legend">{legend}</div></div>'
    )


def _charts(results: Sequence[EpisodeResult], summary: Mapping[str, Any]) -> str:
    cards = []
    targets = sorted({r.target for r in results})
    if 1 < len(targets) <= 16:
        rows = []
        for name in targets:
            mine = [r for r in results if r.target == name]
            hits = sum(r.success for r in mine)
            rows.append((name, hits / len(mine), *wilson(hits, len(mine)), len(mine)))
        cards.append(('Success by goal, 95% intervals', plots.rates(rows)))
    if 'coverage_rates' in summary:
        cards.append(('Success by coverage asked for, 95% intervals', plots.rates([
            (f'{row["coverage"]:g}', row['success_rate'], row['ci_low'], row['ci_high'],
             summary['n']) for row in summary['coverage_rates']
        ])))
    judged = [r for r in results if r.dreams and r.realised]
    if judged:
        cells, reached = ([[0, 0], [0, 0]] for _ in range(2))
        for r in judged:
            i, j = int(not r.dream_success), int(not r.execution_success)
            cells[i][j] += 1
            reached[i][j] += r.success
        cards.append(('Dream and execution', plots.four_fields(cells, reached)))
    cards.append(('How long episodes took (colours as above)', plots.histogram(
        [(_colour(name), [r.duration for r in results if r.outcome == name])
         for name in dict.fromkeys(r.outcome for r in sorted(results, key=worst_first)[::-1])], 's',
    )))
    ages = [age for r in results for age in r.plan_ages]
    if ages:
        cards.append(('Age of the plan being executed', plots.histogram(
            [('var(--reached)', ages)], 's', 2)))
    realised = [max(share, 0.0) for r in results for share in r.realised]
    if realised:
        cards.append(('Share of the dreamt change that came true, by plan', plots.histogram(
            [('var(--reached)', realised)], '', 2)))
    return '<div class="charts">' + ''.join(
        f'<div class="card"><h3>{escape(name)}</h3>{chart}</div>' for name, chart in cards
    ) + '</div>'


def _films(videos: Sequence[tuple[EpisodeResult, Path]], unit: str) -> str:
    if not videos:
        return ''
    cards = ''.join(
        '<div class="card"><video controls autoplay loop muted playsinline '
        f'src="data:video/webm;base64,{base64.b64encode(path.read_bytes()).decode()}"></video>'
        '<div class="names"><span>seen</span><span>dreamt for that moment</span></div>'
        f'<strong>{escape(r.prompt)}</strong>'
        f'<p class="tag" style="color:{_colour(r.outcome)}">episode {r.index}: {escape(r.outcome)}'
        f'</p><p>{escape(story(r, unit))}</p></div>'
        for r, path in videos
    )
    failed = sum(not r.success for r, _ in videos)
    words = 'The worst episodes' if failed else 'The slowest episodes'
    return f'<h2>{words}</h2><div class="films">{cards}</div>'


def _failures(results: Sequence[EpisodeResult], unit: str) -> str:
    failed = sorted((r for r in results if not r.success), key=worst_first)
    if not failed:
        return '<h2>What went wrong</h2><p>Nothing: every goal was reached.</p>'
    rows = ''.join(
        f'<tr><td class="n">{r.index}</td><td>{escape(r.prompt)}</td>'
        f'<td>{escape(story(r, unit))}</td></tr>' for r in failed
    )
    return (
        '<h2>What went wrong</h2><div class="scroll"><table><tr><th>episode</th><th>asked for</th>'
        f'<th>what happened</th></tr>{rows}</table></div>'
    )


def _all(results: Sequence[EpisodeResult], unit: str) -> str:
    names = ('episode', 'asked for', 'outcome', 'progress', 'seconds', 'dreams right',
             'came true', 'plan age', 'underruns', 'jerk', 'clipped', 'seed')
    rows = ''
    for r in results:
        age = sum(r.plan_ages) / len(r.plan_ages) if r.plan_ages else None
        cells = [
            f'{r.progress:.2f}', f'{r.duration:.1f}',
            f'{sum(r.dreams)} of {len(r.dreams)}' if r.dreams else '-',
            f'{sum(r.came_true)} of {len(r.realised)}' if r.realised else '-',
            _number(age), str(r.underruns),
            '-' if math.isnan(r.jerk) else f'{r.jerk:.1f}',
            f'{r.clipped / r.setpoints:.1%}' if r.setpoints else '-', str(r.seed),
        ]
        rows += (
            f'<tr id="e{r.index}"><td class="n">{r.index}</td><td>{escape(r.prompt)}</td>'
            f'<td style="color:{_colour(r.outcome)}">{escape(r.outcome)}</td>'
            + ''.join(f'<td class="n">{escape(cell)}</td>' for cell in cells) + '</tr>'
        )
    head = ''.join(f'<th>{name}</th>' for name in names)
    return (
        '<h2>Episodes</h2><details><summary>all numbers</summary><div class="scroll"><table>'
        f'<tr>{head}</tr>{rows}</table></div></details>'
    )


def _made(about: Mapping[str, Any]) -> str:
    rows = ''.join(
        f'<tr><td>{escape(str(key).replace("_", " "))}</td><td><code>{escape(str(value))}</code>'
        '</td></tr>' for key, value in about.items() if value not in ('', None)
    )
    return f'<h2>What was evaluated</h2><div class="card"><table>{rows}</table></div>'
