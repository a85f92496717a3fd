"""What an environment needs to run an app (contract, sections 2.6 and 3.7)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from moorage.errors import EnvUnknown, PrerequisitesDenied
from moorage.model.jobs import JSON
from moorage.networks.golem.documents import BadDocument, Source, read_object, readable

DOCKER_CPU, DOCKER_GPU = "docker_cpu", "docker_gpu"
LOCAL = "local"
"""An environment that only this node knows: the folder of the task's own app."""
LATEST = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prerequisites:
    """An image, or what starts an app from its own folder."""

    env_id: str
    image: str = ""
    """Empty for LOCAL, as the next one."""
    tag: str = ""
    command: tuple[str, ...] | None = None
    """Program and arguments in LOCAL; None leaves the choice to the app's folder."""

    @property
    def reference(self) -> str:
        """The image's full name."""
        return f"{self.image}:{self.tag}"


def parse(env_id: str, source: Source) -> Prerequisites:
    """Read the prerequisites of an environment; unknown keys are ignored.

    Raises EnvUnknown for an environment that no node of this kind has, PrerequisitesDenied for prerequisites that
    are not what the environment takes.
    """
    reader = _READERS.get(env_id)
    if reader is None:
        raise EnvUnknown(f"There is no environment {readable(env_id)} here; there are {', '.join(_READERS)}.")
    return reader(env_id, _read(source))


def prereq_hash(source: Source) -> str:
    """Give 32 hexadecimal digits that are the same for the same prerequisites, whatever the order of their keys.

    Raises PrerequisitesDenied for what is no JSON object.
    """
    text = json.dumps(_read(source), sort_keys=True)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _image(env_id: str, document: Mapping[str, JSON]) -> Prerequisites:
    image, tag = document.get("image"), document.get("tag")
    if not isinstance(image, str) or not image:
        raise _bad("`image` must be the name of an image")
    if not isinstance(tag, str | None):
        raise _bad("`tag` must be a string")
    return Prerequisites(env_id=env_id, image=image, tag=tag or LATEST)


def _folder(env_id: str, document: Mapping[str, JSON]) -> Prerequisites:
    command = document.get("command")
    if command is None:
        return Prerequisites(env_id=env_id)
    if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
        raise _bad("`command` must be a list of strings, the program first")
    return Prerequisites(env_id=env_id, command=tuple(command))


_READERS = {DOCKER_CPU: _image, DOCKER_GPU: _image, LOCAL: _folder}


def _read(source: Source) -> dict[str, JSON]:
    try:
        return read_object(source)
    except BadDocument as error:
        raise _bad(str(error)) from None


def _bad(reason: str) -> PrerequisitesDenied:
    return PrerequisitesDenied(
        f"The app's prerequisites cannot be used: {reason}.", hint="The app gives them: correct it there."
    )
