"""`moorage completion`: the completion script of a shell."""

import sys
from typing import Literal


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the completion script of a shell.

    For this session of bash: `eval "$(moorage completion bash)"`. To keep it, write it to where the shell looks:
    bash `~/.local/share/bash-completion/completions/moorage`, zsh `_moorage` in a directory of `$fpath`,
    fish `~/.config/fish/completions/moorage.fish`.

    Parameters
    ----------
    shell
        The shell that you use.
    """
    from moorage.cli.main import app

    sys.stdout.write(app.generate_completion(shell=shell))
