"""`moorage app`: code that the node keeps."""

from typing import Annotated

from cyclopts import App as Commands

from moorage.cli.options import Source, help_of
from moorage.cli.render import Progress, err, moment, print_facts, print_json, print_next, print_table, size
from moorage.cli.session import connect
from moorage.client import Client
from moorage.errors import BadUsage, NotFound
from moorage.model.apps import App
from moorage.model.states import AppState

app = Commands(name="app", help="Add, show and publish apps.")

Name = Annotated[str, help_of("Id of an app, or its name if only one has it.")]
Json = Annotated[bool, help_of("Print one JSON document.")]

LOG_LINES = 40
"""Last lines of an installation that are shown."""


@app.command
def add(
    source: Source,
    /,
    *,
    network: Annotated[str | None, help_of("Network of the app, if it is not recognised.")] = None,
    name: Annotated[str | None, help_of("Name of the app; by default that of its source.")] = None,
    json: Json = False,
) -> None:
    """Add an app, or edit the one of that name that is not published yet, and wait until it is installed."""
    from moorage.cli.intake import ensure_app

    with connect() as client, Progress(quiet=json) as progress:
        added = ensure_app(client, str(source), network=network, name=name, progress=progress)
    _tell(added, json=json)
    if not json:
        print_next([(f"job submit {added.id}", "run it"), (f"app publish {added.id}", "let others run it")])


@app.command(name="list")
def list_(
    *,
    state: Annotated[AppState | None, help_of("Only apps in this state.")] = None,
    network: Annotated[str | None, help_of("Only apps of this network.")] = None,
    limit: Annotated[int, help_of("How many at most.")] = 50,
    json: Json = False,
) -> None:
    """List apps, newest first."""
    with connect() as client:
        apps = client.apps(state=state, network=network, limit=limit)
    if json:
        print_json(apps)
        return
    rows = [(each.id, each.name, each.network, each.state, each.owner, moment(each.updated_at)) for each in apps]
    print_table(("ID", "NAME", "NETWORK", "STATE", "OWNER", "CHANGED"), rows, empty="There are no apps.")


@app.command
def show(name: Name, /, *, json: Json = False) -> None:
    """Show an app and its history, the log of its installation included."""
    with connect() as client:
        found = find_app(client, name)
        events = client.events(found.id)
    if json:
        print_json({"app": found, "events": events})
        return
    print_facts(
        {
            "id": found.id,
            "name": found.name,
            "network": found.network,
            "state": found.state,
            "owner": found.owner,
            "digest": found.digest,
            "files": f"{found.files}, {size(found.size)}",
            "added": moment(found.created_at),
            "changed": moment(found.updated_at),
            "error": found.error and f"{found.error.message} ({found.error.code})",
        }
    )
    history = [event for event in events if event.topic != "layer.progress"]
    progress = [event for event in events if event.topic == "layer.progress"][-LOG_LINES:]
    shown = sorted([*history, *progress], key=lambda event: event.seq)
    err().print()
    print_table(("TIME", "EVENT", ""), [(moment(e.time), e.topic, e.message) for e in shown], empty="")


@app.command
def publish(name: Name, /, *, json: Json = False) -> None:
    """Let everybody run an app; its files are fixed by their digest from then on."""
    _change(name, AppState.PUBLISHED, json=json)


@app.command
def hide(name: Name, /, *, json: Json = False) -> None:
    """Withdraw a published app for now; queued jobs keep their place."""
    _change(name, AppState.HIDDEN, json=json)


@app.command
def unhide(name: Name, /, *, json: Json = False) -> None:
    """Let everybody run a hidden app again."""
    _change(name, AppState.PUBLISHED, json=json)


@app.command
def remove(name: Name, /, *, json: Json = False) -> None:
    """End an app for good; its queued jobs are cancelled."""
    _change(name, AppState.REMOVED, json=json)


def find_app(client: Client, name: str) -> App:
    """Find an app by its id, or by its name among those that are not removed.

    Raises NotFound, and BadUsage if several have the name.
    """
    if name.startswith("app_"):
        return client.app(name)
    apps = [app for app in client.apps(name=name, limit=100) if app.state is not AppState.REMOVED]
    if not apps:
        raise NotFound(f"There is no app {name}.", hint="List what there is with `moorage app list`.")
    if len(apps) > 1:
        choices = ", ".join(f"{app.id} ({app.state})" for app in apps)
        raise BadUsage(f"{len(apps)} apps are called {name}: {choices}.", hint="Name the one you mean by its id.")
    return apps[0]


def _change(name: str, state: AppState, *, json: bool) -> None:
    with connect() as client:
        _tell(client.change_app(find_app(client, name).id, state), json=json)


def _tell(app: App, *, json: bool) -> None:
    if json:
        print_json(app)
    else:
        print_table(("ID", "NAME", "STATE"), [(app.id, app.name, app.state)], empty="")
