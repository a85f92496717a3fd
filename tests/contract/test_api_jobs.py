"""Jobs over HTTP: submit, wait, follow, cancel, retry, outputs, logs."""

import gc
import io
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import httpx
import pytest

from moorage.api.server import serve
from moorage.client import Client
from moorage.errors import (
    FileBadPath,
    FileDuplicate,
    IdempotencyConflict,
    InputUnavailable,
    Invalid,
    JobFinished,
    NotFound,
)
from moorage.model.apps import App
from moorage.model.jobs import FileRef, Job
from moorage.model.states import AttemptState, JobState
from tests.serving import Served, serving

FAST = {"cpus": "100m", "memory": "128MiB"}


@pytest.fixture(scope="module")
def done(served: Served, app: App) -> Job:
    """Give a job that has succeeded."""
    with Client(served.url) as client:
        job = client.wait_job(client.submit(app.id, limits=FAST).id, timeout=60)
    assert job.state is JobState.SUCCEEDED, job.error
    return job


def test_a_job_takes_files_in_and_gives_files_out(client: Client, app: App, tmp_path: Path) -> None:
    text = tmp_path / "in.txt"
    text.write_text("shout")
    ref = client.upload_file(text, "deep/in.txt")
    job = client.submit(app.id, inputs=[ref], settings={"times": "2"}, limits=FAST, labels={"a": "b"})
    assert job.spec.inputs == (FileRef(path="deep/in.txt", digest=ref.digest, size=5),)
    assert job.spec.limits.memory == 128 << 20
    assert client.wait_job(job.id, timeout=60).state is JobState.SUCCEEDED
    paths = client.download_outputs(job.id, tmp_path / "out")
    assert {str(path.relative_to(tmp_path / "out")) for path in paths} == {"charts/a b.txt", "in.txt", "ü.bin"}
    assert (tmp_path / "out" / "in.txt").read_text() == "SHOUT"
    assert (tmp_path / "out" / "ü.bin").read_bytes() == bytes(range(256)) * 2


def test_outputs_can_be_taken_one_by_one_in_parts_and_as_archives(served: Served, done: Job) -> None:
    with httpx.Client(base_url=f"{served.url}/v1/jobs/{done.id}") as http:
        one = http.get("/outputs/charts/a b.txt")
        assert (one.text, one.headers["content-type"]) == ("42", "text/plain; charset=utf-8")
        assert "sandbox" in one.headers["content-security-policy"]
        assert http.get("/outputs/ü.bin", headers={"range": "bytes=-2"}).content == b"\xfe\xff"
        assert http.get("/outputs/nothing").json()["code"] == "not_found"
        with zipfile.ZipFile(io.BytesIO(http.get("/outputs.zip").content)) as archive:
            assert archive.testzip() is None
            assert {name: len(archive.read(name)) for name in archive.namelist()} == {"charts/a b.txt": 2, "ü.bin": 256}
        with tarfile.open(fileobj=io.BytesIO(http.get("/outputs.tar").content)) as archive:
            assert {member.name: member.size for member in archive} == {"charts/a b.txt": 2, "ü.bin": 256}


def test_logs_are_bytes_of_either_stream(served: Served, client: Client, done: Job) -> None:
    plain = httpx.get(f"{served.url}/v1/jobs/{done.id}/logs", params={"stream": "stdout"})
    assert plain.content == b"hello\n\xff\n"
    assert plain.headers["content-type"].startswith("text/plain")
    chunks = list(client.follow_logs(done.id))
    assert b"".join(chunk for stream, chunk in chunks if stream == "stdout") == b"hello\n\xff\n"
    assert b"".join(chunk for _, chunk in client.follow_logs(done.id, stream="stderr")) == b"trouble\n"


def test_logs_are_followed_while_the_job_runs(client: Client, app: App) -> None:
    job = client.submit(app.id, settings={"nap": "60"}, limits=FAST)
    for _, chunk in client.follow_logs(job.id, stream="stdout"):
        assert chunk.startswith(b"hello")
        assert client.job(job.id).state is JobState.RUNNING
        break
    client.cancel(job.id)
    assert client.wait_job(job.id, timeout=60).state is JobState.CANCELLED


def test_the_history_is_followed_to_its_end(served: Served, client: Client, app: App) -> None:
    job = client.submit(app.id, limits=FAST)
    events = list(client.follow_events(job.id))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert (events[0].topic, events[-1].topic) == ("job.queued", "job.succeeded")
    assert client.events(job.id) == events
    assert list(client.follow_events(job.id, after=events[-1].seq)) == []
    assert client.events(job.id, after=2) == events[2:]
    again = {"accept": "text/event-stream", "last-event-id": str(events[-1].seq)}
    assert httpx.get(f"{served.url}/v1/jobs/{job.id}/events", headers=again).status_code == 204
    part = httpx.get(f"{served.url}/v1/jobs/{job.id}/events", headers={**again, "last-event-id": "1"})
    assert part.text.startswith('data: {"id":')
    assert "id: 2\n" in part.text
    assert "id: 1\n" not in part.text


def test_the_operator_follows_the_whole_node(served: Served, client: Client, app: App) -> None:
    seen: list[str] = []
    last = client._node.call("GET", "/v1/events", params={"limit": 1000}).json()[-1]["id"]
    with httpx.stream("GET", f"{served.url}/v1/events?after={last}", headers={"accept": "text/event-stream"}) as answer:
        job = client.submit(app.id, limits=FAST)
        for line in answer.iter_lines():
            seen.append(line)
            if job.id in line and "job.succeeded" in line:
                break
    assert any("job.queued" in line and job.id in line for line in seen)


def test_a_long_poll_answers_as_soon_as_something_happens(served: Served, client: Client, app: App) -> None:
    job = client.submit(app.id, settings={"nap": "60"}, limits=FAST)
    client.wait_job(job.id, JobState.RUNNING, timeout=60)
    list(zip(range(1), client.follow_logs(job.id), strict=False))
    seen = client.job(job.id).seq
    threading.Timer(0.2, lambda: httpx.post(f"{served.url}/v1/jobs/{job.id}/cancel")).start()
    answer = httpx.get(f"{served.url}/v1/jobs/{job.id}", params={"wait": 60, "after": seen}, timeout=70).json()
    assert answer["seq"] > seen
    client.wait_job(job.id, timeout=60)
    idle = httpx.get(f"{served.url}/v1/jobs/{job.id}", params={"wait": 60}, timeout=5).json()
    assert idle["state"] == "cancelled", "a job that has ended is not waited for"


def test_a_wait_that_runs_out_gives_the_job_as_it_is(client: Client, app: App) -> None:
    job = client.submit(app.id, settings={"nap": "60"}, limits=FAST)
    assert not client.wait_job(job.id, timeout=0.1).state.terminal
    assert client.wait_job(job.id, JobState.RUNNING, timeout=60).state is JobState.RUNNING
    client.cancel(job.id)
    client.wait_job(job.id, timeout=60)


def test_a_submission_may_wait_for_the_end(served: Served, app: App) -> None:
    body = {"app_id": app.id, "limits": FAST}
    answer = httpx.post(f"{served.url}/v1/jobs", json=body, headers={"prefer": "wait=60"}, timeout=70)
    assert (answer.status_code, answer.json()["state"]) == (201, "succeeded")
    assert answer.headers["preference-applied"] == "wait=60"


def test_repeating_a_request_makes_one_job(served: Served, client: Client, app: App) -> None:
    body = {"app_id": app.id, "limits": FAST}
    first = httpx.put(f"{served.url}/v1/jobs/my-job", json=body)
    second = httpx.put(f"{served.url}/v1/jobs/my-job", json=body)
    assert (first.status_code, second.status_code, second.json()["id"]) == (201, 200, "my-job")
    assert first.headers["location"] == "/v1/jobs/my-job"
    with pytest.raises(IdempotencyConflict):
        client.submit(app.id, job_id="my-job", labels={"other": "request"})
    keyed = {client.submit(app.id, limits=FAST, idempotency_key="k").id for _ in range(2)}
    assert len(keyed) == 1


@pytest.mark.parametrize("job_id", ["a b", "../x", "ü", "x" * 65])
def test_a_strange_job_id_is_refused(client: Client, app: App, job_id: str) -> None:
    with pytest.raises((Invalid, NotFound)):
        client.submit(app.id, job_id=job_id)


def test_a_job_that_ended_is_not_cancelled_but_can_be_retried(client: Client, app: App) -> None:
    job = client.wait_job(client.submit(app.id, settings={"status": "3"}, limits=FAST).id, timeout=60)
    assert (job.state, job.error.code if job.error else "") == (JobState.FAILED, "job_crashed")
    with pytest.raises(JobFinished):
        client.cancel(job.id)
    again = client.retry(job.id)
    assert (again.retry_of, again.spec) == (job.id, job.spec)
    (attempt,) = client.attempts(job.id)
    assert (attempt.state, attempt.exit_status) == (AttemptState.FAILED, 3)
    assert client.why(job.id).summary == "Job failed with exit code 3"


def test_a_queued_job_says_why(client: Client, app: App) -> None:
    first = client.submit(app.id, settings={"nap": "60"}, limits=FAST)
    second = client.submit(app.id, after=[first.id], limits=FAST)
    why = client.why(second.id)
    assert why.waiting_for == (first.id,)
    assert client.job(second.id).pending_reason == why.summary
    client.cancel(second.id)
    client.cancel(first.id)


def test_jobs_are_found_by_what_they_are(client: Client, app: App) -> None:
    ids = [client.submit(app.id, labels={"kind": "found", "n": str(n)}, limits=FAST).id for n in range(3)]
    assert [job.id for job in client.jobs(labels={"kind": "found"})] == ids[::-1]
    assert [job.id for job in client.jobs(labels={"kind": "found", "n": "1"}, app_id=app.id)] == [ids[1]]
    assert [job.id for job in client.jobs(labels={"kind": "found"}, before=ids[1])] == [ids[0]]
    assert client.jobs(labels={"kind": "found"}, network="arpanet") == []
    for job_id in ids:
        client.wait_job(job_id, timeout=60)
    assert len(client.jobs(labels={"kind": "found"}, state=JobState.SUCCEEDED)) == 3


def test_bad_inputs_are_refused(client: Client, app: App) -> None:
    digest, size = client.upload([b"x"])
    good = FileRef(path="x", digest=digest, size=size)
    with pytest.raises(InputUnavailable, match="y"):
        client.submit(app.id, inputs=[FileRef(path="y", digest="0" * 64, size=1)])
    with pytest.raises(FileBadPath):
        client.submit(app.id, inputs=[FileRef(path="../x", digest=digest, size=size)])
    with pytest.raises(FileDuplicate):
        client.submit(app.id, inputs=[good, good])
    with pytest.raises(Invalid, match="both"):
        client.submit(app.id, parameters={}, settings={})
    with pytest.raises(Invalid, match=r"limits\.cpus"):
        client.submit(app.id, limits={"cpus": 0})
    with pytest.raises(NotFound):
        client.submit("app_unknown")


def test_somebody_elses_job_is_not_there(served: Served, done: Job) -> None:
    with Client(served.socket) as operator:
        token = operator.add_token("carol")
        try:
            with Client(served.url, token=token) as carol:
                for look in (carol.job, carol.why, carol.attempts, carol.outputs, carol.events, carol.cancel):
                    with pytest.raises(NotFound):
                        look(done.id)
                with pytest.raises(NotFound):
                    list(carol.follow_logs(done.id))
                assert carol.jobs() == []
                assert operator.job(done.id) == done
        finally:
            operator.remove_token("carol")


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket")  # httpcore leaves a socket that found nobody open
def test_a_broken_stream_of_events_is_taken_up_again(served: Served, app: App, tmp_path: Path) -> None:
    socket, seen = tmp_path / "second.sock", []

    def follow(job_id: str) -> None:
        with Client(socket) as client:
            seen.extend(client.follow_events(job_id))

    with Client(served.url) as client:
        with served.portal.wrap_async_context_manager(serve(served.node, uds=socket)):
            job = client.submit(app.id, settings={"nap": "60"}, limits=FAST)
            thread = threading.Thread(target=follow, args=(job.id,))
            thread.start()
            client.wait_job(job.id, JobState.RUNNING, timeout=60)
            time.sleep(0.3)
        assert not socket.exists()
        client.cancel(job.id)
        with served.portal.wrap_async_context_manager(serve(served.node, uds=socket)):
            thread.join(timeout=60)
        assert seen == client.events(job.id)
    assert seen[-1].topic == "job.cancelled"
    gc.collect()


def test_waits_and_streams_end_when_the_node_stops(tmp_path: Path, app: App) -> None:
    ended: list[str] = []

    def poll(url: str, app_id: str) -> None:
        ended.append(httpx.get(f"{url}/v1/apps/{app_id}", params={"wait": 300}, timeout=310).json()["id"])

    def stream(url: str) -> None:
        with httpx.stream("GET", f"{url}/v1/events", headers={"accept": "text/event-stream"}, timeout=310) as answer:
            ended.append(str(len(answer.read())))

    with serving(tmp_path / "data") as other, Client(other.url) as client:
        (tmp_path / "main.py").write_text("")
        mine = client.wait_app(client.add_app_from(tmp_path / "main.py", network="infrax").id, timeout=60)
        threads = [
            threading.Thread(target=poll, args=(other.url, mine.id)),
            threading.Thread(target=stream, args=(other.url,)),
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        assert ended == []
    for thread in threads:
        thread.join(timeout=30)
    assert len(ended) == 2
