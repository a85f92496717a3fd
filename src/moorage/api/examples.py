"""One consistent story in nouns, shown as the examples of the OpenAPI document."""

from moorage.api.schemas import DIGEST, NewToken, Stored, TokenName
from moorage.engine.base import Place
from moorage.model.apps import App
from moorage.model.events import Event
from moorage.model.jobs import Attempt, FileRef, Job, JobSpec, Usage
from moorage.model.limits import MIB, Limits, Timeouts
from moorage.model.states import AppState, AttemptState, JobState
from moorage.networks.base import ServiceState
from moorage.node.explain import Explanation
from moorage.node.info import NodeInfo
from moorage.sandbox.base import Check

APP_ID = "app_0192f7c1a3b47c0e8f51c2d3e4f50617"
JOB_ID = "job_0192f7c1a4c07d1f9062d3e4f5061728"
TOKEN = "moor_4PZ0hHq0o2Yw0cJkJ1mM0u6n7oJ7p8sX9cQ0r1s2t3u"  # noqa: S105 - an example
WHEN = 1_795_345_200.0

STORED = Stored(digest=DIGEST, size=4)
FILE = FileRef(path="charts/words.svg", digest=DIGEST, size=18_234)
APP = App(
    id=APP_ID,
    network="infrax",
    name="word-count",
    owner="local",
    state=AppState.TESTING,
    digest=DIGEST,
    size=2_310,
    files=3,
    created_at=WHEN,
    updated_at=WHEN + 2.4,
    seq=2,
)
JOB = Job(
    id=JOB_ID,
    owner="local",
    network="infrax",
    app_digest=DIGEST,
    spec=JobSpec(
        app_id=APP_ID,
        parameters={"kwargs": {"language": "en"}},
        inputs=(FileRef(path="texts/moby-dick.txt", digest=DIGEST, size=1_276_235),),
        limits=Limits(cpus=0.5, memory=512 * MIB),
        timeouts=Timeouts(execution=60.0),
        labels={"project": "whales"},
    ),
    state=JobState.QUEUED,
    created_at=WHEN + 5,
    seq=1,
    pending_reason="2 jobs come before it.",
)
ATTEMPT = Attempt(
    id="att_0192f7c1a4d17e20a173e4f506172839",
    job_id=JOB_ID,
    number=1,
    state=AttemptState.SUCCEEDED,
    lease=7,
    place="local",
    created_at=WHEN + 6,
    started_at=WHEN + 6.1,
    finished_at=WHEN + 7.3,
    exit_status=0,
    usage=Usage(wall=1.2, cpu=1.1, peak_memory=48 * MIB),
    stdout=FileRef(path="stdout", digest=DIGEST, size=120),
)
EVENT = Event(id=41, subject=JOB_ID, seq=1, time=WHEN + 5, topic="job.queued", message="The job was accepted.")
EXPLANATION = Explanation(summary="2 jobs come before it.", ahead=2)
SERVICE = ServiceState(
    key="summarize",
    state="ready",
    leases=1,
    restarts=0,
    started_at=WHEN,
    reason=None,
    log_tail="listening on port 3000\n",
)
PLACE = Place(name="local", cpus=2.0, memory=16 << 30, free_cpus=1.0, free_memory=15 << 30, running=1)
NODE = NodeInfo(
    version="0.1.0",
    started_at=WHEN,
    data_dir="/var/lib/moorage",
    isolation="bubblewrap",
    networks=("infrax",),
    places=(PLACE,),
    jobs={JobState.QUEUED: 2, JobState.RUNNING: 1},
)
CHECK = Check(name="cgroup.memory", ok=True, required=False, message="Memory limits are enforced by cgroup v2.")
TOKEN_NAME = TokenName(name="alice", operator=False, created_at=WHEN)
NEW_TOKEN = NewToken(name="alice", operator=False, token=TOKEN)
