"""A simulated channel and the fields in which AMI describes it (Asterisk main/manager_channels.c)."""

from __future__ import annotations

from dataclasses import dataclass

STATE_DOWN = 0
STATE_RING = 4
STATE_RINGING = 5
STATE_UP = 6
_STATE_NAMES = {STATE_DOWN: "Down", STATE_RING: "Ring", STATE_RINGING: "Ringing", STATE_UP: "Up"}

CAUSE_TEXTS = {
    0: "Unknown",
    16: "Normal Clearing",
    17: "User busy",
    19: "User alerting, no answer",
    20: "Subscriber absent",
    21: "Call Rejected",
    26: "Answered elsewhere",
    34: "Circuit/channel congestion",
    38: "Network out of order",
    127: "Interworking, unspecified",
}


@dataclass
class Channel:
    """One leg. Times are of the event loop's clock, in s."""

    name: str
    uniqueid: str
    linkedid: str
    context: str
    exten: str
    caller_num: str
    caller_name: str
    created: float
    state: int = STATE_RING
    connected_num: str = ""
    application: str = ""
    application_data: str = ""
    bridge_id: str = ""

    def fields(self, prefix: str = "") -> list[tuple[str, str]]:
        """The channel state block of an event; `prefix` is Dest for the dialled leg."""
        unknown = "<unknown>"
        pairs = [
            ("Channel", self.name),
            ("ChannelState", str(self.state)),
            ("ChannelStateDesc", _STATE_NAMES.get(self.state, "Unknown")),
            ("CallerIDNum", self.caller_num or unknown),
            ("CallerIDName", self.caller_name or unknown),
            ("ConnectedLineNum", self.connected_num or unknown),
            ("ConnectedLineName", unknown),
            ("Language", "en"),
            ("AccountCode", ""),
            ("Context", self.context),
            ("Exten", self.exten),
            ("Priority", "1"),
            ("Uniqueid", self.uniqueid),
            ("Linkedid", self.linkedid),
        ]
        return [(prefix + name, value) for name, value in pairs]

    def row(self, now: float) -> list[tuple[str, str]]:
        """The fields of CoreShowChannel; `now` is the event loop's clock in s."""
        seconds = max(0, int(now - self.created))
        duration = f"{seconds // 3600:02d}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
        return [
            *self.fields(),
            ("Application", self.application),
            ("ApplicationData", self.application_data),
            ("Duration", duration),
            ("BridgeId", self.bridge_id),
        ]
