import pytest

from vera_jidm import solve_bench


def test_it_times_the_parts_of_a_translation():
    found = solve_bench.measure(size=32, channels=3, steps=2, repeats=3)
    assert (found['size'], found['channels'], found['steps']) == (32, 3, 2)
    for part in ('translate', 'solve'):
        assert 0 < found[f'{part}_p50_ms'] <= found[f'{part}_p99_ms']
        assert 0 < found[f'{part}_cpu_ms'] <= found[f'{part}_cpu_p99_ms']
    # Solving the sums is a part of translating.
    assert found['solve_cpu_ms'] < found['translate_cpu_ms']
    assert found['honesty_cpu_ms'] > 0


def test_a_measurement_in_another_process():
    found = solve_bench.measure_with(1, size=32, channels=2, steps=1, repeats=2)
    assert found['threads'] == 1 and found['repeats'] == 2
    with pytest.raises(solve_bench.BenchError, match='channels'):
        solve_bench.measure_with(1, channels=0)
