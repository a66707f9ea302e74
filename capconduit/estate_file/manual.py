"""What capconduit-estate(5) says: the meaning and the default of every field, and an example that a test applies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ABOUT: Final[Mapping[str, str]] = {
    "rate": "What a seller pays, or a target is paid.",
    "schedule": "Opening hours of campaigns and targets.",
    "trunk": "A carrier: who may send calls, and where calls go out. Render again after a change.",
    "seller": "A seller and the account that comes with it. Money is never moved by a file.",
    "provider": "An account at a provider of voices and models. Its key is never in the file, only where it is.",
    "agent": "The profile of a voice agent; targets of kind agent lead to it.",
    "target": "Where a call can be forwarded.",
    "campaign": "A seller's stream of calls.",
    "rule": "Lets the calls of a campaign go to a target.",
    "did": "A number that calls arrive on, by its E.164 form in quotes. Its seller is that of its campaign.",
    "block": (
        "A caller that is refused, `pattern`, for the calls of one `seller`, of one `campaign`, or with neither for"
        " everybody's. One that is over is left out of an export, and needs not be taken out of a file."
    ),
}

# Meaning and default of each field; the default as a file would write it, None where a new thing needs the field.
FIELDS: Final[Mapping[str, Mapping[str, tuple[str, str | None]]]] = {
    "rate": {
        "currency": ("ISO 4217 code.", '"USD"'),
        "per_minute": ("Price of a minute.", None),
        "connect_fee": ("Price of being connected.", '"0.00"'),
        "increment": ("Seconds of the first and of each further increment.", '"60/60"'),
        "then_per_minute": ("Price of a minute after then_after.", '"0.00"'),
        "then_after": ("When the second price begins, in whole seconds; 0s: there is one price.", '"0s"'),
    },
    "schedule": {
        "hours": ('`always`, `never` or hours like "Mon-Fri 09:00-17:00; Sat 22:00-06:00".', None),
        "timezone": ("IANA name; without one, that of the setting timezone when it is added.", '"UTC"'),
        "holidays": ('Days with other hours or none, like "12-25; 2026-12-31 09:00-12:00".', '""'),
    },
    "trunk": {
        "kind": ("Protocol.", None),
        "hosts": ("Addresses, networks or names; the first is where calls are sent.", "[]"),
        "port": ("Port of the carrier; 5061 with tls, 4569 with iax2.", "5060"),
        "codecs": ("Codecs in the order they are offered.", '["ulaw", "alaw"]'),
        "region": ("ISO 3166 code of the region of its national numbers; empty: the setting default_region.", '""'),
        "auth": ("How the carrier proves to be itself: by its address, by digest, or we register there.", '"ip"'),
        "username": ("User name; with digest the trunk's name where none is given.", '""'),
        "secret": ("Where the secret is, never the secret: file:/absolute/path or env:NAME.", '""'),
        "transport": ("Transport of SIP.", '"udp"'),
        "srtp": ("Encrypted media; needs tls.", "false"),
        "nat": ("The carrier, or we, are behind NAT.", "false"),
        "qualify": ("How often the carrier is asked whether it is there; 0s: never.", '"0s"'),
        "permit": ("Where one that proves its name may come from; empty: from anywhere.", "[]"),
        "caps": ("Limits on calls that arrive on it.", "[]"),
    },
    "seller": {
        "currency": ("ISO 4217 code of its account.", '"USD"'),
        "timezone": ("IANA name; the days of its caps are those of this zone.", '"UTC"'),
        "status": ("A suspended seller takes no calls.", '"active"'),
        "credit_limit": ("How far below zero its balance may go.", '"0.00"'),
        "low_balance": ("Below it the seller is warned; 0: never.", '"0.00"'),
        "caps": ("Limits on its calls.", "[]"),
    },
    "provider": {
        "kind": ("Whose it is.", None),
        "url": ("Base URL; azure has none of its own.", '"https://api.openai.com/v1"'),
        "key": ("Where the key is, never the key: file:/absolute/path or env:NAME; empty: it needs none.", '""'),
        "model": ("The model that speaks; openai and ollama need one.", '""'),
        "text_model": ("What writes, where it is another model; of azure a deployment.", '""'),
        "voice": ("Its voice; empty: the provider's choice.", '""'),
        "deployment": ("Of azure, which needs it: the name of the deployment that speaks.", '""'),
        "api_version": ("Of azure: the version of its API; there, 2024-10-21 where none is given.", '""'),
    },
    "agent": {
        "providers": ("Its providers, the first choice first; the next takes over where one fails.", None),
        "voice": ("A voice that takes the place of the provider's; empty: none.", '""'),
        "language": ("BCP 47 tag of what it speaks, like en-US; empty: the provider's choice.", '""'),
        "instructions": ("What it is told to do; a text of several lines stands in triple quotes.", '""'),
        "greeting": ("What it says first; empty: it waits for the caller.", '""'),
        "tools": ("What it may do: hangup, transfer, message, mcp:SERVER, mcp:SERVER/TOOL.", "[]"),
        "max_duration": ("How long one conversation may last.", '"30m"'),
        "max_cost": ("What the provider may charge for one conversation, in USD; 0: any amount.", '"0.00"'),
        "silence": ("It hangs up where nobody spoke for so long; 0s: never.", '"30s"'),
        "transcripts": ("Whether what is said may be kept.", "false"),
        "retention_days": ("For how many days a transcript is kept.", "30"),
    },
    "target": {
        "kind": ("What it is.", None),
        "address": (
            "What is dialled: a SIP URI, an IAX2 peer, an extension like 200@internal; agents have none.",
            '""',
        ),
        "agent": ("Of kind agent: whose profile answers.", '""'),
        "ring": ("How long it may ring.", '"20s"'),
        "enabled": ("Whether calls go there.", "true"),
        "schedule": ("A schedule it goes by; empty: always open.", '""'),
        "rate": ("A rate that takes the place of the campaign's; empty: none.", '""'),
        "payout": ("The rate that it is paid by; empty: none.", '""'),
        "caps": ("Limits on calls that go there.", "[]"),
    },
    "campaign": {
        "seller": ("Whose it is.", None),
        "rate": ("What its calls cost.", None),
        "status": ("A paused campaign takes no calls.", '"active"'),
        "strategy": ("How targets are chosen.", '"priority"'),
        "billable_threshold": ("Talk from which a call counts as billable.", '"0s"'),
        "max_attempts": ("Targets to try; by default the setting default_max_attempts.", "5"),
        "ring_budget": ("How long all targets may ring together.", '"1m30s"'),
        "max_duration": ("How long a call may last.", '"4h"'),
        "schedule": ("A schedule it goes by; empty: always open.", '""'),
        "duplicate_window": ("How long a caller who called is kept out; 0s: not at all.", '"0s"'),
        "anonymous_callers": ("allow or reject; empty: the setting of that name.", '""'),
        "min_attestation": ("STIR/SHAKEN level that callers need; empty: the setting of that name.", '""'),
        "caps": ("Limits on its calls.", "[]"),
    },
    "rule": {
        "priority": ("0 is first.", "1"),
        "weight": ("Share of the calls among rules of one priority.", "1"),
        "enabled": ("Whether calls go this way.", "true"),
        "rate": ("A rate of this pair; empty: the target's or the campaign's.", '""'),
        "payout": ("A payout of this pair; empty: the target's.", '""'),
        "caps": ("Limits on calls of this pair.", "[]"),
    },
    "did": {
        "trunk": ("The trunk it arrives on; once there is one it can become another, not none.", '""'),
        "campaign": ("The campaign whose calls come on it; empty: none.", '""'),
        "seller": ("Whose it is while it has no campaign; with one, it is the campaign's seller's.", '""'),
        "suspended": ("A suspended number takes no calls.", "false"),
        "caps": ("Limits on its calls.", "[]"),
    },
    "block": {
        "reason": ("Why, for people.", '""'),
        "expires": ("From this instant on it holds no more; empty: for ever.", '""'),
    },
}

EXAMPLE: Final = """\
# The estate of two sellers. Comments stay where they are with
#   capconduit export --comments-of estate.toml
format = 1

[settings]
default_region = "US"
default_max_attempts = 3

[system]
caps = ["cps 50", "concurrent 500"]

[rate.std]
per_minute = "0.20"
increment = "60/60"

[rate.long]  # dear at first, then cheap
per_minute = "0.30"
increment = "30/6"
then_per_minute = "0.10"
then_after = "10m"

[rate.paid]
per_minute = "0.05"

[schedule.office]
hours = "Mon-Fri 09:00-17:00"
timezone = "America/New_York"
holidays = "12-25; 2026-12-31 09:00-12:00"

[trunk.carrier]
kind = "pjsip"
hosts = ["192.0.2.10", "198.51.100.0/28"]
port = 5060
caps = ["concurrent 200"]

[trunk.overseas]
kind = "pjsip"
hosts = ["sip.example.net"]
auth = "register"
username = "acct-4711"
secret = "file:/etc/capconduit/secrets/overseas"
transport = "tls"
srtp = true
region = "GB"

[seller.acme]
currency = "USD"
timezone = "America/New_York"
credit_limit = "100"
low_balance = "25"
caps = ["spend 500/day"]

[seller.zenith]
status = "suspended"

[provider.main]
kind = "openai"
key = "file:/etc/capconduit/secrets/openai"
model = "gpt-realtime"
text_model = "gpt-4.1-mini"
voice = "marin"

[provider.second]
kind = "azure"
url = "https://acme.openai.azure.com"
key = "env:AZURE_KEY"
deployment = "realtime-eu"

[agent.reception]
providers = ["main", "second"]
language = "en-US"
instructions = \"\"\"
You answer the telephone of a solar company.
Ask for the postcode, then transfer the call.\"\"\"
greeting = "Good day, this is Acme Solar."
tools = ["hangup", "transfer", "mcp:calendar/book"]
max_duration = "10m"
max_cost = "1.50"

[target.night]
kind = "agent"
agent = "reception"
ring = "10s"

[target.buyer1]
kind = "pjsip"
address = "sip:buyer@192.0.2.80:5080"
ring = "25s"
schedule = "office"
payout = "paid"
caps = ["concurrent 5", "minutes 600/day"]

[target.desk]
kind = "extension"
address = "200@internal"

# Was called "panels" until the spring.
[campaign.solar]
renamed_from = "panels"
seller = "acme"
rate = "std"
strategy = "priority"
billable_threshold = "1m30s"
duplicate_window = "7d"
caps = [
    "concurrent 10",
    "billable 200/day",
    "attempts 50/rolling:1h",
]

[rule.solar.buyer1]
priority = 1
caps = ["billable 100/day"]

[rule.solar.desk]
priority = 2
rate = "long"

[did."+18005550100"]
trunk = "carrier"
campaign = "solar"
caps = ["connected 1000/month"]

[did."+18005550101"]
trunk = "carrier"
suspended = true

[[block]]
pattern = "+1900*"
reason = "premium numbers"

[[block]]
pattern = "+12125550199"
seller = "acme"
expires = "2199-01-01"
"""
