"""asterisklint finds nothing in the rendered dialplan but what is explained here.

It knows the applications and functions of Asterisk 11 and 13, and reads no `#tryinclude`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from capconduit.render import engine
from capconduit.render.contexts import Ami, Fallback, RenderContext, StirSource

CONTEXT = RenderContext(node_name="node1", ami=Ami(users=()))
EXPLAINED: Final = (
    r"E_APP_MISSING: app 'MSet' does not exist",  # pbx/pbx_variables.c; since 1.6
    r"E_FUNC_MISSING: function '(CDR_PROP|IFMODULE|STIR_SHAKEN)' does not exist",  # since 12, 16, 18
    # The operator's contexts, in files of their own; each is asked for with DIALPLAN_EXISTS before.
    r"E_DP_GOTO_NOCONTEXT: context not found for goto to (capconduit-(before-route|before-dial|on-reject)|operator), ",
    r"H_PAT_NON_CANONICAL: pattern '_\[\+0-9\]!'",  # a matter of order
    r"H_DP_GLOBALS_MISPLACED: ",  # there are none
)


def lint() -> str:
    """The program, beside this Python or on $PATH."""
    found = shutil.which("asterisklint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip("asterisklint is not installed: pip install asterisklint==0.4.3")
    return found


def findings(text: str, directory: Path) -> list[str]:
    """What asterisklint says of a dialplan, without what is explained."""
    path = directory / "extensions.conf"
    path.write_text(text)
    done = subprocess.run(
        [lint(), "dialplan-check", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    lines = [line.partition("extensions.conf:")[2] for line in (done.stdout + done.stderr).splitlines()]
    assert lines, "it says something of every dialplan of ours"
    return [line for line in lines if not any(re.search(explained, line) for explained in EXPLAINED)]


@pytest.mark.parametrize(
    "context",
    [
        CONTEXT,
        replace(CONTEXT, stir=StirSource.ASTERISK, fallback=Fallback(context="operator")),
        replace(CONTEXT, stir=StirSource.HEADERS, exact_sip_codes=False),
    ],
)
def test_the_dialplan_has_nothing_that_is_not_explained(tmp_path: Path, context: RenderContext) -> None:
    assert findings(engine.render_all(context)["extensions.conf"], tmp_path) == []


@pytest.mark.parametrize(
    "broken",
    ["[x]\nexten => s,1,Nonsense()\n", "[x]\nexten => s,1,Goto(nowhere,s,1)\n", "[x]\nexten => s,2,NoOp()\n"],
)
def test_it_would_be_found(tmp_path: Path, broken: str) -> None:
    assert findings(engine.render_all(CONTEXT)["extensions.conf"] + broken, tmp_path) != []
