import threading

from vera_jidm.worker import NewestWorker


def test_the_newest_job_wins():
    began, go, done = threading.Event(), threading.Event(), threading.Event()
    seen = []

    def work(job):
        seen.append(job)
        began.set()
        assert go.wait(5)
        if job == 4:
            done.set()

    worker = NewestWorker(work, lambda job, error: None)
    worker.start()
    worker.submit(1)
    assert began.wait(5)
    for job in (2, 3, 4):
        worker.submit(job)
    go.set()
    assert done.wait(5)
    assert seen == [1, 4]
    assert worker.superseded == 2
    assert worker.stop()


def test_a_bad_job_is_reported_and_the_next_one_runs():
    done, errors = threading.Event(), []

    def work(job):
        if job == 'bad':
            raise ValueError('broken')
        done.set()

    reported = threading.Event()
    worker = NewestWorker(work, lambda job, e: (errors.append((job, str(e))), reported.set()))
    worker.start()
    worker.submit('bad')
    assert reported.wait(5)
    worker.submit('good')
    assert done.wait(5)
    assert errors == [('bad', 'broken')]
    assert worker.stop()


def test_stop_drops_what_waits_and_can_be_called_twice():
    began, go, seen = threading.Event(), threading.Event(), []

    def work(job):
        seen.append(job)
        began.set()
        go.wait(5)

    worker = NewestWorker(work, lambda job, error: None)
    worker.start()
    worker.submit(1)
    assert began.wait(5)
    worker.submit(2)
    threading.Timer(0.05, go.set).start()
    assert worker.stop()
    assert worker.stop()
    assert seen == [1]
