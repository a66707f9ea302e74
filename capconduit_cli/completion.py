"""Shell completion: the scripts for bash, zsh and fish, and the answers to what they ask.

The shells pass the words themselves as arguments, the last one being completed, so that nothing is split or quoted
twice. Completion is decoration and fails open: whatever goes wrong, nothing is offered and nothing is printed.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from typer._click.shell_completion import CompletionItem, _resolve_context, _resolve_incomplete

from capconduit_cli.app import DEBUG_VARIABLE, PROGRAM, build_root
from capconduit_cli.text import printable

DEADLINE_S: Final = 2.0  # a locked database must not freeze somebody's prompt

_BASH: Final = """\
# bash completion for capconduit; install with:
#   capconduit --completion bash > /etc/bash_completion.d/capconduit
_capconduit() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("$(printf '%q' "$line")")
    done < <(_CAPCONDUIT_COMPLETE=bash "${COMP_WORDS[0]}" "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _capconduit capconduit
"""

_ZSH: Final = """\
#compdef capconduit
# zsh completion for capconduit; install with:
#   capconduit --completion zsh > "${fpath[1]}/_capconduit"
_capconduit() {
    local -a items
    items=("${(@f)$(_CAPCONDUIT_COMPLETE=zsh "${words[1]}" "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${items[1]}" ]]; then
        _describe capconduit items
    else
        _files
    fi
}
if [[ "${funcstack[1]}" == _capconduit ]]; then
    _capconduit "$@"
else
    compdef _capconduit capconduit
fi
"""

_FISH: Final = """\
# fish completion for capconduit; install with:
#   capconduit --completion fish > ~/.config/fish/completions/capconduit.fish
function __capconduit_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l items (env _CAPCONDUIT_COMPLETE=fish $words[1] $words[2..-1] "$current" 2>/dev/null)
    if test (count $items) -gt 0
        printf '%s\\n' $items
    else
        __fish_complete_path "$current"
    end
end
complete --command capconduit --no-files --arguments '(__capconduit_complete)'
"""

_SCRIPTS: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script(shell: str) -> str:
    """The completion script of `bash`, `zsh` or `fish`."""
    return _SCRIPTS[shell]


def answer(environment: Mapping[str, str], words: Sequence[str]) -> int:
    """Print what may stand in place of the last of `words`, in the form of the shell that asks; the exit code."""
    # Not a handler: a signal's default ends the process even while it waits inside of a database driver.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
    shell = environment.get("_CAPCONDUIT_COMPLETE", "")
    try:
        items = completions(_bash_words(words) if shell == "bash" else words)
        sys.stdout.write("".join(f"{_line(item, shell)}\n" for item in items))
        sys.stdout.flush()
    except Exception:  # decoration fails open; whoever writes a completer sees why with the debug variable
        if environment.get(DEBUG_VARIABLE):
            raise
        return os.EX_SOFTWARE
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return os.EX_OK


def completions(words: Sequence[str]) -> list[CompletionItem]:
    """What may stand in place of the last of `words`."""
    *before, incomplete = words or [""]
    arguments = list(before)
    ctx = _resolve_context(build_root(), {}, PROGRAM, arguments)
    if ctx._protected_args:
        return []  # a word that is no command: nothing after it makes sense
    found, incomplete = _resolve_incomplete(ctx, arguments, incomplete)
    return found.shell_complete(ctx, incomplete)


def _line(item: CompletionItem, shell: str) -> str:
    value, about = printable(str(item.value)), printable(" ".join((item.help or "").split()))
    if shell == "zsh":
        escaped = value.replace("\\", "\\\\").replace(":", "\\:")
        return f"{escaped}:{about}" if about else escaped
    if shell == "fish" and about:
        return f"{value}\t{about}"
    return value


def _bash_words(words: Sequence[str]) -> list[str]:
    """Bash's words as they are meant: it leaves the quotes on and splits `--output=json` at the `=`."""
    meant: list[str] = []
    for number, word in enumerate(words):
        last = number == len(words) - 1
        if word == "=" and meant and meant[-1].startswith("--"):
            if last:
                meant.append("")
            continue
        meant.append(_unquoted(word))
    return meant


def _unquoted(word: str) -> str:
    try:
        return "".join(shlex.split(word))
    except ValueError:  # a quote that is still open
        return word.lstrip("'\"")
