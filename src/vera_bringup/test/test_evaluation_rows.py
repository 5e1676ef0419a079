"""Episodes kept on disk, told in words, filmed, and shown on a page."""

from __future__ import annotations

import http.server
import math
import queue
import re
import shutil
import subprocess
import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest

from vera_bringup.episode_story import story
from vera_bringup.episode_videos import WorstVideos, write_video
from vera_bringup.report import write_report
from vera_bringup.report_plots import histogram
from vera_bringup.rows import ROWS, Rows, RowsError
from vera_bringup.statistics import (
    REACHED,
    RESTED,
    STOPPED,
    TIME,
    WRONG,
    EpisodeResult,
    from_row,
    jerk_squares,
    pearson,
    rank_violation,
    summarise,
    to_row,
)

ABOUT = {
    'embodiment': 'finger', 'planner': 'compact', 'translator': 'jacobian', 'seed': 3,
    'held_out': True, 'loop': 'async', 'latency': 0.5, 'ros': False,
}


def episode(index: int, what: str = REACHED, **more) -> EpisodeResult:
    values = {
        'progress': 1.0 if what == REACHED else 0.4, 'duration': 3.0 + index, 'left': 9.25,
        'replan_ms': (40.0, 50.0), 'plan_ages': (0.1, 0.2), 'jerk': 30.0, 'setpoints': 300,
        'clipped': 3, 'dreams': (True, True), 'realised': (0.8, 0.7),
    } | more
    return EpisodeResult(index, 7 + index, 'touch the <red> disc', 'red', what, **values)


def film(frames: int = 6) -> np.ndarray:
    out = np.zeros((frames, 2, 64, 64, 3), np.uint8)
    out[:, 0, :, :, 0], out[:, 1, :, :, 2] = 200, 200
    return out


def test_a_row_becomes_the_same_episode_again():
    one = episode(4, WRONG, reached='blue', coverage=math.nan)
    again = from_row(to_row(one))
    assert math.isnan(again.coverage) and again == replace(one, coverage=again.coverage)
    assert to_row(one)['coverage'] is None and 'film' not in to_row(one)
    with pytest.raises(ValueError, match='not of an episode'):
        from_row({'speed': 3})


def test_rows_go_on_after_a_line_that_was_cut_off(tmp_path):
    with Rows(tmp_path / 'new' / 'out', ABOUT) as rows:
        for index in range(3):
            rows.add(to_row(episode(index)))
    file = tmp_path / 'new' / 'out' / ROWS
    file.write_bytes(file.read_bytes()[:-9])
    with Rows(file.parent, ABOUT) as rows:
        assert [row['index'] for row in rows.found] == [0, 1]
        rows.add(to_row(episode(2)))
    with Rows(file.parent, ABOUT) as rows:
        assert [row['index'] for row in rows.found] == [0, 1, 2]


def test_rows_of_something_else_are_refused_by_what_differs(tmp_path):
    Rows(tmp_path / 'a', ABOUT).close()
    with pytest.raises(RowsError, match=r'seed: 3 there, 4 now.*choose another folder'):
        Rows(tmp_path / 'a', ABOUT | {'seed': 4})
    (tmp_path / 'file').write_text('')
    with pytest.raises(RowsError, match='cannot be a folder'):
        Rows(tmp_path / 'file', ABOUT)
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / ROWS).write_text('{}\n')
    with pytest.raises(RowsError, match='belongs to something else'):
        Rows(tmp_path / 'b', ABOUT)


@pytest.mark.parametrize(
    ('one', 'words'),
    [
        (episode(0), 'Reached after 3.0 s.'),
        (episode(0, WRONG, reached='blue', dreams=(False, False, True)),
         "rest in 'blue' after 3.0 s; 'red' was asked for. It ended 9.2 px from it, having made"),
        (episode(0, WRONG, reached='blue', dreams=(False, False, True)),
         '2 of 3 plans showed something else than the expert would do, all 2 that could be '),
        (episode(0, WRONG, reached='blue', dreams=(False, False, True)),
         'compared came true: the planner failed, not the execution.'),
        (episode(0, TIME, realised=(0.1, 0.2, 0.9)), 'the execution failed, not the planner'),
        (episode(0, RESTED, dreams=(False,), realised=(0.0,)), 'both failed'),
        (episode(0, TIME), 'came true: there was not time enough'),
        (episode(0, STOPPED, reason='joint_2 is held'), 'stopped after 3.0 s ("joint_2 is held")'),
        (episode(0, TIME, coverage=0.71), 'At best it covered 71% of the goal.'),
        (episode(0, TIME, dreams=(), realised=()), 'Time was up after 3.0 s'),
    ],
)
def test_what_happened_in_words(one, words):
    assert words in story(one)


def test_numbers_of_all_episodes_together():
    found = summarise([episode(0, jerk=30.0), episode(1, TIME, jerk=40.0, underruns=2)])
    assert found['jerk'] == pytest.approx(math.sqrt((900 + 1600) / 2), abs=1e-3)
    assert found['clip_ratio'] == 0.01 and found['underruns'] == 2
    assert found['underruns_per_minute'] == pytest.approx(2 / (7 / 60), abs=1e-3)
    assert (found['plan_age_p50'], found['seconds_to_goal']) == (0.15, 3.0)
    assert found['execution_success']['n'] == 2
    nothing = summarise([episode(0, setpoints=0, jerk=math.nan, plan_ages=())])
    assert nothing['jerk'] is None and nothing['clip_ratio'] is None


def test_jerk_is_the_third_derivative():
    t = np.arange(0, 2, 0.01)
    # q = 5 t^3: a jerk of 30 everywhere.
    squares = jerk_squares(np.stack([5 * t**3, 0 * t], axis=1), 0.01)
    assert np.allclose(squares, 30**2 / 2)
    assert len(jerk_squares(np.zeros((3, 2)), 0.01)) == 0


def test_pearson_and_its_interval():
    r, low, high = pearson([0.1, 0.4, 0.5, 0.9, 0.6], [0.2, 0.3, 0.7, 0.8, 0.9])
    # By hand: r = 0.30 / sqrt(0.34 * 0.388); z = 1.1753 +- 1.9600 / sqrt(2), and back by tanh.
    assert (r, low, high) == pytest.approx((0.8260, -0.2075, 0.9881), abs=2e-4)
    assert all(math.isnan(v) for v in pearson([0.5, 0.5], [0.1, 0.9]))
    assert pearson([0, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx((1, 1, 1))


def test_a_wrong_order_costs_what_lies_between():
    assert rank_violation([0.1, 0.5, 0.9], [0.2, 0.4, 0.8]) == 0
    # The first two are the wrong way round, 0.2 apart; the third is right.
    assert rank_violation([0.5, 0.1, 0.9], [0.2, 0.4, 0.8]) == pytest.approx(0.4 / 3)


def test_the_worst_videos_are_kept_whatever_comes_first(tmp_path):
    episodes = [
        replace(episode(k, what, progress=p), film=film())
        for k, (what, p) in enumerate(
            [(REACHED, 1.0), (TIME, 0.2), (TIME, 0.6), (REACHED, 1.0), (WRONG, 0.1)]
        )
    ]
    for order in (episodes, episodes[::-1]):
        folder = tmp_path / str(order[0].index)
        kept = WorstVideos(folder, 2, 0.2)
        for one in order:
            kept.take(one)
        assert [one.index for one, _ in kept.videos()] == [4, 1]
        assert sorted(p.name for p in folder.iterdir()) == [
            'episode_0001.webm', 'episode_0004.webm'
        ]
    # Gone on with, the videos that are there count.
    again = WorstVideos(folder, 3, 0.2, [episodes[1], episodes[4]])
    again.take(episodes[2])
    assert [one.index for one, _ in again.videos()] == [4, 1, 2]


def test_a_video_has_its_frames_side_by_side_or_stacked(tmp_path):
    for shape, size in (((64, 64), (392, 192)), ((96, 288), (288, 200))):
        path = tmp_path / f'{shape[1]}.webm'
        frames = np.zeros((6, 2, *shape, 3), np.uint8)
        frames[:, 0, :, :, 0], frames[:, 1, :, :, 2] = 200, 200
        write_video(frames, path, 0.2)
        capture = cv2.VideoCapture(str(path))
        assert capture.get(cv2.CAP_PROP_FPS) == 5
        ok, picture = capture.read()
        assert ok and (picture.shape[1], picture.shape[0]) == size
        # Seen is red, dreamt is blue; OpenCV gives BGR.
        assert picture[8, 8, 2] > 120 > picture[8, 8, 0]
        assert picture[-8, -8, 0] > 120 > picture[-8, -8, 2]
        count = 1
        while capture.read()[0]:
            count += 1
        assert count == 11


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp('page')
    results = [episode(0), episode(1, WRONG, reached='blue'), episode(2, TIME, dreams=(False,))]
    write_video(film(), folder / 'one.webm', 0.2)
    write_report(
        folder / 'report.html', ABOUT, summarise(results), results,
        [(results[1], folder / 'one.webm')],
    )
    return folder / 'report.html'


def test_the_page_needs_nothing_beside_itself(page):
    text = page.read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', text) and '<script' not in text
    assert '33.3%' in text and 'touch the &lt;red&gt; disc' in text and '<red>' not in text
    assert text.count('<video') == 1 and 'came to rest in &#x27;blue&#x27;' in text
    assert 'a planner 0.5 s late' in text and 'What went wrong' in text


def test_no_failures_and_no_videos_make_a_page_too(tmp_path):
    results = [episode(0, dreams=(), realised=(), plan_ages=())]
    write_report(tmp_path / 'r.html', ABOUT, summarise(results), results)
    assert 'every goal was reached' in (tmp_path / 'r.html').read_text()
    assert histogram([('red', [])], 's') == ''


class Page(http.server.BaseHTTPRequestHandler):
    """Serves one page and hears what it says."""

    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Type', 'text/html')
        self.end_headers()
        if self.path == '/':
            self.wfile.write(self.server.page)
        elif self.path.startswith('/said/'):
            self.server.said.put(self.path[6:])

    def log_message(self, *_):
        pass


@pytest.mark.skipif(shutil.which('chromium') is None, reason='chromium is not installed')
@pytest.mark.timeout(180)
def test_a_browser_plays_the_video(page, tmp_path):
    data = re.search(r'src="(data:video/webm;base64,[^"]+)"', page.read_text()).group(1)
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Page)
    server.said = queue.Queue()
    server.page = (
        f'<video id="v" muted src="{data}"></video><script>'
        "const v = document.getElementById('v');"
        'v.onended = () => fetch(`/said/played${v.videoWidth}x${v.videoHeight}`);'
        "v.play().catch(why => fetch('/said/' + why));</script>"
    ).encode()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = subprocess.Popen(
        ['chromium', '--headless', '--no-sandbox', '--disable-gpu', '--remote-debugging-port=0',
         f'--user-data-dir={tmp_path}/profile', f'http://127.0.0.1:{server.server_port}/'],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        assert server.said.get(timeout=150) == 'played392x192'
    finally:
        browser.terminate()
        browser.wait(20)
        server.shutdown()
        server.server_close()
