"""The helper process that starts every process of a node and knows when it has ended.

Standard library only, one thread, little memory: a fork of it costs half a millisecond, whatever the node has grown
to. It takes orders on a Unix socket, answers with events, and ends everything that it started when the node goes away.
`processes.py` is the node's side. Orders and events are JSON objects with the `number` of a process:

    {"order": "prepare", "cgroups": [PATH], "spare": BOOL, "interpreter": NUMBER | null}
                                                             fork, enter the cgroups, wait for the request
    {"order": "start", "mounts": [...]} and descriptors      become what the request says (launch.py)
    {"order": "terminate"}, {"order": "kill"}                signal all of it
    {"order": "connect", "port": NUMBER, "kind": NUMBER} and a descriptor
                                                             connect within its network, answer on the descriptor

    {"event": "ready"}                                       a spare one has entered its cgroups; an interpreter waits
    {"event": "started", "inner": NUMBER | null}             with the first process of bubblewrap's own world
    {"event": "failed", "step": TEXT, "why": TEXT, "errno": NUMBER}
    {"event": "ended", "status": NUMBER, "ran": BOOL, "wall": SECONDS, "cpu": SECONDS, "peak": BYTES}

Preparing ahead of need is worth it because the kernel takes 10 ms to move the first of several processes into a cgroup.

A process may be a warm interpreter (guest/interpreter.py): then its start comes with its code as one descriptor more.
Those prepared with its number as `interpreter` are forked from it rather than from here, and get their `mounts` from
mounter.py.

It is a subreaper: whatever loses its parent below it becomes its child, so that nothing gets away unseen.
"""

import contextlib
import errno
import gc
import json
import os
import select
import signal
import socket
import time
from collections import deque
from typing import Any

from moorage.sandbox import staging
from moorage.sandbox.interpreters import Interpreter, Mounter, close_all, open_groups, pid_of
from moorage.sandbox.launch import launch, reach
from moorage.sandbox.messages import receive
from moorage.sandbox.monitor import children
from moorage.sandbox.spawned import Job, from_shell

OF_FORKS = {"ready", "running", "step", "why", "errno"}
"""What an interpreter's child may say: it has no business with the numbers of other processes."""
LAST_CHANCE = 5.0
"""Seconds to wait for killed processes once the node is gone; the kernel may keep one for a disk."""


class Spawner:
    """Starts processes on a node's orders and reports their ends."""

    def __init__(self, node: socket.socket, user: int | None) -> None:
        self._node = node
        self._idmap = _idmap(user)
        self._mounter = Mounter(owner=user, idmap=self._idmap)
        self._interpreters: dict[int, Interpreter] = {}
        self._errands: set[int] = set()
        self._jobs: dict[int, Job] = {}
        self._pids: dict[int, Job] = {}
        self._statuses: dict[int, Job] = {}
        self._unsent: deque[bytes] = deque()
        self._poll = select.poll()
        self._poll.register(node, select.POLLIN)
        self._woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._woken, select.POLLIN)
        self._ending = False
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def serve(self) -> None:
        """Work until the node goes away, then end everything."""
        while not self._ending:
            self._step(None)
        self._poll.unregister(self._node)
        deadline = time.monotonic() + LAST_CHANCE
        for job in list(self._jobs.values()):
            job.kill()
        while self._jobs and time.monotonic() < deadline:
            self._step(100)

    def _step(self, timeout: int | None) -> None:
        for descriptor, event in self._poll.poll(timeout):
            if descriptor == self._woken:
                os.read(self._woken, 4096)
                self._reap()
            elif descriptor in self._statuses:
                self._read_status(self._statuses[descriptor])
            elif descriptor != self._node.fileno():
                self._hear(descriptor)
            elif event & select.POLLOUT:
                self._flush()
            elif not self._ending:
                self._obey()

    def _on_signal(self, number: int, _frame: object) -> None:
        self._ending = self._ending or number == signal.SIGTERM

    def _obey(self) -> None:
        message, descriptors = receive(self._node)
        if not message:
            self._ending = True
            return
        order = json.loads(message)
        job = self._jobs.get(order["number"])
        if order["order"] == "prepare":
            self._prepare(order)
        elif order["order"] == "start":
            self._start(order, job, descriptors)
        elif order["order"] == "connect" and descriptors:
            self._connect(order, job, descriptors)
        elif job:
            (job.kill if order["order"] == "kill" else job.terminate)()

    def _prepare(self, order: dict[str, Any]) -> None:
        try:
            if order["interpreter"] is None:
                job = self._fork(order)
                self._pids[job.outer] = job
            else:
                job = self._fork_from(order)
            self._jobs[job.number] = job
        except OSError as error:
            self._fail(order["number"], "fork", error)

    def _fail(self, number: int, step: str, error: OSError) -> None:
        self._tell(number, "failed", step=step, why=str(error), errno=error.errno)
        self._tell(number, "ended", status=1, ran=False, wall=0.0, cpu=0.0, peak=0)

    def _fork(self, order: dict[str, Any]) -> Job:
        parent = os.getpid()
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        orders, request = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = os.fork()
            if pid == 0:
                launch(order, request, status=theirs, parent=parent, idmap=self._idmap)
        except OSError:
            os.close(ours)
            orders.close()
            raise
        finally:
            os.close(theirs)
            request.close()
        os.set_blocking(ours, False)
        job = self._statuses[ours] = Job(order["number"], pid, ours, orders)
        self._poll.register(ours, select.POLLIN)
        return job

    def _fork_from(self, order: dict[str, Any]) -> Job:
        interpreter = self._interpreters.get(order["interpreter"])
        if interpreter is None:
            raise OSError(errno.ESRCH, "its interpreter has ended")
        groups = open_groups(order["cgroups"])
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        orders, request = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            interpreter.fork(order["number"], [request.fileno(), theirs, *groups])
        except OSError:
            os.close(ours)
            orders.close()
            raise
        finally:
            request.close()
            close_all([theirs, *groups])
        job = self._statuses[ours] = Job(order["number"], 0, ours, orders)
        job.interpreter = interpreter
        self._poll.register(ours, select.POLLIN)
        return job

    def _start(self, order: dict[str, Any], job: Job | None, descriptors: list[int]) -> None:
        if job is None:
            self._fail(order["number"], "prepare", OSError(errno.ESRCH, "it has ended before it was started"))
        elif len(descriptors) < order["descriptors"]:
            self._tell(job.number, "failed", step="start", why=os.strerror(errno.EMFILE), errno=errno.EMFILE)
            job.orders.close()
        else:
            job.started = time.monotonic()
            try:
                self._hand_over(order, job, descriptors)
            except OSError as error:
                if job.interpreter is not None:  # any other has failed already, and said why
                    self._tell(job.number, "failed", step="mount", why=str(error), errno=error.errno)
            job.orders.close()
        close_all(descriptors)

    def _hand_over(self, order: dict[str, Any], job: Job, descriptors: list[int]) -> None:
        if job.interpreter is not None:
            self._mounter.mount(order["mounts"], [job.orders.fileno(), *descriptors])
        elif order["code"]:
            control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            *streams, code = descriptors
            self._interpreters[job.number] = Interpreter(job.number, control)
            self._poll.register(control, select.POLLIN)
            with theirs:
                socket.send_fds(job.orders, [b"start"], [*streams, theirs.fileno(), code])
        else:
            socket.send_fds(job.orders, [b"start"], descriptors)

    def _connect(self, order: dict[str, Any], job: Job | None, descriptors: list[int]) -> None:
        """Have a child connect; the end of the answer's line tells the node that there will be none."""
        parent, network = os.getpid(), None
        with contextlib.ExitStack() as stack:
            reply = stack.enter_context(socket.socket(fileno=descriptors[0]))
            stack.enter_context(contextlib.suppress(OSError))
            if job is None or not (job.monitored or job.inner):
                return
            if job.inner is not None:
                network = os.open(f"/proc/{job.inner}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, network)
            if job.inner is None or job.exists:
                pid = os.fork()
                if pid == 0:
                    reach(order["port"], order["kind"], reply, parent=parent, network=network)
                self._errands.add(pid)

    def _hear(self, descriptor: int) -> None:
        """Take what an interpreter says."""
        for interpreter in [each for each in self._interpreters.values() if each.control.fileno() == descriptor]:
            with contextlib.suppress(BlockingIOError):
                while (reply := interpreter.hear())[0]:
                    self._note_reply(interpreter, *reply)
                self._lose(interpreter)

    def _note_reply(self, interpreter: Interpreter, words: list[str], descriptors: list[int]) -> None:
        if words == ["ready"]:
            self._tell(interpreter.number, "ready")
            return
        kind, number, *values = words
        job = self._jobs.get(int(number))
        if job is None or job.interpreter is not interpreter:
            close_all(descriptors)
        elif kind == "forked" and descriptors:
            job.process, pid = descriptors[0], pid_of(descriptors[0])
            job.outer, job.inner = pid or 0, pid
            if job.running:
                self._started(job)
            if job.doomed:
                job.kill()
        elif kind == "failed":
            self._tell(job.number, "failed", step="fork", why=os.strerror(int(values[0])), errno=int(values[0]))
            self._conclude(job, 1)
        elif kind == "ended":
            job.cpu, job.peak = float(values[1]), int(values[2])
            self._conclude(job, int(values[0]))

    def _conclude(self, job: Job, code: int) -> None:
        """Take note of the end of an interpreter's child."""
        self._read_status(job)
        job.code = code
        if job.running:
            job.exit_code = from_shell(code)
        self._finish(job)

    def _lose(self, interpreter: Interpreter) -> None:
        """Give up an interpreter that has ended, and with it the kernel all that was forked from it."""
        self._poll.unregister(interpreter.control)
        interpreter.control.close()
        del self._interpreters[interpreter.number]
        for job in [job for job in self._jobs.values() if job.interpreter is interpreter]:
            self._read_status(job)
            killed = job.doomed and job.running
            job.kill()  # the kernel is about to
            if not killed:
                job.running = False
                self._tell(job.number, "failed", step="go on", why="its interpreter has ended", errno=0)
            self._conclude(job, -signal.SIGKILL)

    def _read_status(self, job: Job | None) -> None:
        """Read what the child or bubblewrap has to say: JSON lines."""
        if job is None or job.status is None:
            return
        with contextlib.suppress(BlockingIOError):
            while data := os.read(job.status, 4096):
                job.told += data
            self._close_status(job)
        *lines, job.told = job.told.split(b"\n")
        for line in lines:
            fact = json.loads(line)
            if job.interpreter is None or OF_FORKS.issuperset(fact):
                self._note(job, fact)

    def _note(self, job: Job, fact: dict[str, Any]) -> None:
        if "step" in fact:
            self._tell(job.number, "failed", **fact)
        elif "ready" in fact:
            self._tell(job.number, "ready")
        elif "child-pid" in fact:
            job.inner = fact["child-pid"]
            self._pids[fact["child-pid"]] = job
            self._started(job)
        elif "monitor" in fact:
            job.monitored = True
            self._started(job)
        elif "running" in fact:
            job.running = True
            if job.process is not None:  # else the interpreter is about to tell of it
                self._started(job)
        elif "exit-code" in fact:
            job.exit_code = from_shell(fact["exit-code"])
        elif "status" in fact:
            job.exit_code = fact["status"]

    def _started(self, job: Job) -> None:
        """Tell that it runs, and read the rest of what it has to say when it has ended."""
        self._unwatch(job)
        self._tell(job.number, "started", inner=job.inner)

    def _close_status(self, job: Job) -> None:
        self._unwatch(job)
        if job.status is not None:
            os.close(job.status)
            job.status = None  # the number soon belongs to another

    def _unwatch(self, job: Job) -> None:
        if job.status is not None and job.status in self._statuses:
            self._poll.unregister(job.status)
            del self._statuses[job.status]

    def _reap(self) -> None:
        stray = False
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self._mounter.pid:
                self._mounter.ended()
                continue
            if pid in self._errands:
                self._errands.discard(pid)
                continue
            if pid not in self._pids:
                self._read_all()
            if job := self._pids.pop(pid, None):
                job.count(usage)
                self._ended(job, pid, status)
            stray = stray or job is None or job.inner is None
        if stray:
            self._kill_strays()

    def _read_all(self) -> None:
        """Learn of every inner process that bubblewrap has told about: it may have ended already."""
        for job in list(self._statuses.values()):
            self._read_status(job)

    def _ended(self, job: Job, pid: int, status: int) -> None:
        if pid == job.outer:
            self._read_status(job)
            job.code = os.waitstatus_to_exitcode(status)
            self._end_inner(job)
        else:
            job.inner_gone = True
        if job.over:
            self._finish(job)

    def _end_inner(self, job: Job) -> None:
        """End what the outer process left: the inner one is our child now, and takes its whole world with it."""
        if job.inner is None or job.inner_gone:
            return
        try:
            pid, _, usage = os.wait4(job.inner, os.WNOHANG)
        except ChildProcessError:
            job.inner_gone = True
            del self._pids[job.inner]
            return
        if pid == 0:
            os.kill(job.inner, signal.SIGKILL)
        else:
            job.count(usage)
            job.inner_gone = True
            del self._pids[job.inner]

    def _finish(self, job: Job) -> None:
        self._close_status(job)
        job.orders.close()
        if job.process is not None:
            os.close(job.process)
        del self._jobs[job.number]
        status, wall = job.code, time.monotonic() - job.started
        ran = job.exit_code is not None or (status is not None and status < 0)
        if job.exit_code is not None:
            status = job.exit_code
        self._tell(job.number, "ended", status=status, ran=ran, wall=wall, cpu=job.cpu, peak=job.peak)

    def _kill_strays(self) -> None:
        """Kill children that no job knows: what a killed outer process left before it told of its inner one."""
        for pid in children(os.getpid()):
            if pid not in self._pids and pid not in self._errands and pid != self._mounter.pid:
                os.kill(pid, signal.SIGKILL)

    def _tell(self, number: int, event: str, **facts: object) -> None:
        self._unsent.append(json.dumps({"number": number, "event": event, **facts}).encode())
        self._flush()

    def _flush(self) -> None:
        """Send what the node takes now; never wait for it, since it may be waiting for us."""
        if self._ending:
            self._unsent.clear()
            return
        try:
            while self._unsent:
                self._node.send(self._unsent[0], socket.MSG_DONTWAIT)
                self._unsent.popleft()
        except ConnectionError:
            self._ending = True
        except BlockingIOError:
            pass
        self._poll.modify(self._node, select.POLLIN | (select.POLLOUT if self._unsent else 0))


def _idmap(user: int | None) -> int | None:
    """Open the namespace for idmapped mounts; None where it is not needed or not to be had."""
    with contextlib.suppress(OSError):
        return None if user is None else staging.idmap_namespace(user)
    return None


def main(descriptor: int, user: int | None) -> None:
    """Serve the node at the other end of a socket; also end when the node's process dies without a word.

    `user` is who isolated processes of a root node become.
    """
    staging.prctl(staging.PR_SET_CHILD_SUBREAPER, 1)
    staging.prctl(staging.PR_SET_PDEATHSIG, signal.SIGTERM)
    with open("/proc/self/comm", "w") as name:
        name.write("moorage-spawner")
    os.set_inheritable(descriptor, False)
    gc.disable()  # nothing here makes cycles, and a collection would copy the pages that children share
    Spawner(socket.socket(fileno=descriptor), user).serve()
