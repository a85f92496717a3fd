"""`moorage completion`: the completion script of a shell."""

import sys
from typing import Annotated, Literal

from cyclopts import Parameter


def completion(shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="The shell that you use.")], /) -> None:
    """Print the completion script of a shell.

    For this session of bash: `eval "$(moorage completion bash)"`. To keep it, write it to where the shell looks:
    bash `~/.local/share/bash-completion/completions/moorage`, zsh `_moorage` in a directory of `$fpath`,
    fish `~/.config/fish/completions/moorage.fish`.
    """
    from moorage.cli.main import app

    sys.stdout.write(app.generate_completion(shell=shell))
