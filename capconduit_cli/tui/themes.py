"""How the terminal UI looks: four themes, each a style for every role. A role is never told by its colour alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from rich.style import Style
from textual.theme import BUILTIN_THEMES
from textual.theme import Theme as TextualTheme


class Role(StrEnum):
    """What a piece of text is; a theme says how it looks."""

    PLAIN = "plain"
    DIM = "dim"
    STRONG = "strong"
    HEAD = "head"  # headings of columns
    GOOD = "good"
    INFO = "info"
    WARN = "warn"
    BAD = "bad"
    BAR = "bar"  # the line at the top, the keys at the bottom
    BAR_DIM = "bar_dim"
    BAR_STRONG = "bar_strong"
    BAR_GOOD = "bar_good"
    BAR_BAD = "bar_bad"
    KEY = "key"
    TAB = "tab"
    TAB_ON = "tab_on"
    TAB_STRONG = "tab_strong"
    BANNER_BAD = "banner_bad"  # what must not be overlooked: stale data, a failed action
    BANNER_INFO = "banner_info"
    FIELD = "field"  # where something is typed
    FIELD_DIM = "field_dim"
    FIELD_CURSOR = "field_cursor"
    CURSOR = "cursor"  # laid over the row that the keys act on
    STALE = "stale"  # laid over rows that are not live


class ThemeName(StrEnum):
    """The themes."""

    DARK = "dark"
    LIGHT = "light"
    CONTRAST = "contrast"
    MONO = "mono"


@dataclass(frozen=True)
class Look:
    """A theme: styles for what we draw, and Textual's own colours for inputs and borders."""

    styles: Mapping[Role, Style]
    textual: TextualTheme
    colours: bool = True

    def style(self, role: Role) -> Style:
        """How `role` looks."""
        return self.styles[role]


def _styles(base: str, **roles: str) -> dict[Role, Style]:
    """Styles on `base`; each role's words are added to it."""
    ground = Style.parse(base)
    laid_over = {role: Style.parse(roles[role.value]) for role in (Role.CURSOR, Role.STALE)}
    return {role: ground + Style.parse(roles.get(role.value, "")) for role in Role} | laid_over


def _textual(name: ThemeName, *, dark: bool, **colours: str) -> TextualTheme:
    return TextualTheme(name=f"capconduit-{name}", dark=dark, **colours)  # type: ignore[arg-type]  # all are texts


_DARK: Final = Look(
    _styles(
        "#c9d1d9 on #0d1117",
        dim="#7d8590",
        strong="bold #f0f6fc",
        head="bold #79c0ff on #161b22",
        good="#56d364",
        info="#79c0ff",
        warn="#e3b341",
        bad="bold #ff7b72",
        bar="#c9d1d9 on #21262d",
        bar_dim="#8b949e on #21262d",
        bar_strong="bold #f0f6fc on #21262d",
        bar_good="bold #56d364 on #21262d",
        bar_bad="bold #ff7b72 on #21262d",
        key="bold #79c0ff on #21262d",
        tab="#8b949e on #161b22",
        tab_on="bold #0d1117 on #79c0ff",
        tab_strong="bold #e3b341 on #161b22",
        banner_bad="bold #ffffff on #b62324",
        banner_info="bold #0d1117 on #e3b341",
        field="#f0f6fc on #30363d",
        field_dim="#8b949e on #30363d",
        field_cursor="#0d1117 on #f0f6fc",
        cursor="bold on #1f4b7a",
        stale="dim",
    ),
    _textual(
        ThemeName.DARK,
        dark=True,
        primary="#79c0ff",
        secondary="#56d364",
        accent="#e3b341",
        foreground="#c9d1d9",
        background="#0d1117",
        surface="#161b22",
        panel="#21262d",
        warning="#e3b341",
        error="#ff7b72",
        success="#56d364",
    ),
)

_LIGHT: Final = Look(
    _styles(
        "#1f2328 on #ffffff",
        dim="#656d76",
        strong="bold #000000",
        head="bold #0550ae on #eaeef2",
        good="#116329",
        info="#0550ae",
        warn="#7d4e00",
        bad="bold #a40e26",
        bar="#1f2328 on #d0d7de",
        bar_dim="#57606a on #d0d7de",
        bar_strong="bold #000000 on #d0d7de",
        bar_good="bold #0a4d1c on #d0d7de",
        bar_bad="bold #a40e26 on #d0d7de",
        key="bold #0550ae on #d0d7de",
        tab="#57606a on #eaeef2",
        tab_on="bold #ffffff on #0550ae",
        tab_strong="bold #7d4e00 on #eaeef2",
        banner_bad="bold #ffffff on #a40e26",
        banner_info="bold #1f2328 on #ffd866",
        field="#000000 on #d0d7de",
        field_dim="#57606a on #d0d7de",
        field_cursor="#ffffff on #000000",
        cursor="bold on #b6d7ff",
        stale="#8c959f",
    ),
    _textual(
        ThemeName.LIGHT,
        dark=False,
        primary="#0550ae",
        secondary="#116329",
        accent="#7d4e00",
        foreground="#1f2328",
        background="#ffffff",
        surface="#f6f8fa",
        panel="#d0d7de",
        warning="#7d4e00",
        error="#a40e26",
        success="#116329",
    ),
)

_CONTRAST: Final = Look(
    _styles(
        "#ffffff on #000000",
        dim="#d0d0d0",
        strong="bold",
        head="bold #000000 on #ffffff",
        good="bold #00ff5f",
        info="bold #00ffff",
        warn="bold #ffff00",
        bad="bold underline #ff8080",
        bar="bold #ffffff on #00005f",
        bar_dim="#ffffff on #00005f",
        bar_strong="bold #ffffff on #00005f",
        bar_good="bold #00ff5f on #00005f",
        bar_bad="bold underline #ff8080 on #00005f",
        key="bold #ffff00 on #00005f",
        tab="#ffffff on #303030",
        tab_on="bold #000000 on #ffff00",
        tab_strong="bold #ffff00 on #303030",
        banner_bad="bold #ffffff on #c00000",
        banner_info="bold #000000 on #ffff00",
        field="bold #ffffff on #00005f",
        field_dim="#d0d0d0 on #00005f",
        field_cursor="#000000 on #ffff00",
        cursor="bold #000000 on #00ffff",
        stale="italic",
    ),
    _textual(
        ThemeName.CONTRAST,
        dark=True,
        primary="#00ffff",
        secondary="#00ff5f",
        accent="#ffff00",
        foreground="#ffffff",
        background="#000000",
        surface="#000000",
        panel="#00005f",
        warning="#ffff00",
        error="#ff8080",
        success="#00ff5f",
    ),
)

# No colour at all: the terminal's own two, and bold, underline and reverse.
_MONO: Final = Look(
    _styles(
        "default on default",
        dim="dim",
        strong="bold",
        head="bold underline",
        warn="bold",
        bad="bold underline",
        bar="reverse",
        bar_dim="reverse",
        bar_strong="reverse bold",
        bar_good="reverse",
        bar_bad="reverse bold underline",
        key="reverse bold",
        tab_on="reverse bold",
        tab_strong="bold",
        banner_bad="reverse bold",
        banner_info="reverse",
        field="underline",
        field_dim="underline dim",
        field_cursor="reverse",
        cursor="reverse",
        stale="dim",
    ),
    TextualTheme(
        name=f"capconduit-{ThemeName.MONO}",
        dark=True,
        ansi=True,
        primary="ansi_default",
        secondary="ansi_default",
        accent="ansi_default",
        foreground="ansi_default",
        background="ansi_default",
        surface="ansi_default",
        panel="ansi_default",
        boost="ansi_default",
        warning="ansi_default",
        error="ansi_default",
        success="ansi_default",
        variables={  # those that Textual's own widgets ask an ANSI theme for (textual/theme.py, "ansi-dark")
            **dict.fromkeys(BUILTIN_THEMES["ansi-dark"].variables, "ansi_default"),
            "input-cursor-text-style": "reverse",
        },
    ),
    colours=False,
)

LOOKS: Final[Mapping[ThemeName, Look]] = {
    ThemeName.DARK: _DARK,
    ThemeName.LIGHT: _LIGHT,
    ThemeName.CONTRAST: _CONTRAST,
    ThemeName.MONO: _MONO,
}
