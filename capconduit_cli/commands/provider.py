"""`capconduit provider`: the accounts whose voices and models agents use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.errors import PeerError
from capconduit.vocab import ProviderFault, ProviderKind
from capconduit_cli.names import NewName, ProviderName
from capconduit_cli.office import destroy, emit_change, given, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows
from capconduit_cli.params import NONE, DryRun, Yes, duration_option
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.domain.agents import Provider
    from capconduit.providers.probe import Probe

app = NounApp(
    "An agent (`capconduit agent`) names the providers it speaks through, the first choice first. The key is never"
    " kept: --key says where it is, env:NAME or file:/absolute/path, and it is read when the provider is asked. openai"
    " is also whatever speaks its protocol at a base URL of its own."
)

COLUMNS: Final = (
    Column("name"),
    Column("kind"),
    Column("url"),
    Column("key"),
    Column("model"),
    Column("text_model", shown=False),
    Column("voice"),
    Column("deployment", shown=False),
    Column("api_version", shown=False),
    *ENTITY_COLUMNS,
)
TEST_COLUMNS: Final = (
    Column("name"),
    Column("kind"),
    Column("ok", Kind.BOOL),
    Column("reason"),
    Column("detail"),
    Column("status", Kind.INT),
    Column("latency_ms", Kind.INT),
    Column("model_found", Kind.BOOL),
    Column("url", shown=False),
)

URL_HELP: Final = "Base URL, without a user or a query."
KEY_HELP: Final = "Where the key is, never the key itself: env:NAME or file:/absolute/path."
MODEL_HELP: Final = "The model that speaks, as the provider names it."
TEXT_MODEL_HELP: Final = "The model that writes, where it is another; of azure a deployment."
VOICE_HELP: Final = "Its voice, as the provider names it."
DEPLOYMENT_HELP: Final = "Of azure: the name of the deployment that speaks."
VERSION_HELP: Final = "Of azure: the version of its API."
_TIMEOUT_MS: Final = 10_000
# What to do about each fault; the others say it themselves.
_NEXT: Final = {
    ProviderFault.DNS: "look at the base URL, and at this machine's name servers",
    ProviderFault.REFUSED: "is it started, and is the port of the base URL right?",
    ProviderFault.UNREACHABLE: "look at the network, the firewall and the proxy",
    ProviderFault.TLS: "look at the base URL, the clock, and the certificates of this machine",
    ProviderFault.TIMEOUT: "try again, or with a longer --timeout",
    ProviderFault.REDIRECT: "give the URL that it sends to, if you trust it",
    ProviderFault.KEY: "put the right key where --key says",
    ProviderFault.FORBIDDEN: "look at the account's rights at the provider",
    ProviderFault.PATH: "look at the base URL: openai's ends in /v1, azure's has no path",
    ProviderFault.MODEL: "name another one with --model or --text-model",
    ProviderFault.QUOTA: "look at the account's limits and its credit at the provider",
    ProviderFault.ANSWER: "look at the kind and the base URL",
}


def row(provider: Provider) -> Row:
    """A provider as it is printed."""
    return {
        "name": provider.name,
        "kind": provider.kind,
        "url": provider.base_url,
        "key": provider.key_ref,
        "model": provider.model,
        "text_model": provider.text_model,
        "voice": provider.voice,
        "deployment": provider.deployment,
        "api_version": provider.api_version,
        **entity_values(provider),
    }


def probe_row(provider: Provider, found: Probe) -> Row:
    """What a test found, as it is printed."""
    return {
        "name": provider.name,
        "kind": provider.kind,
        "ok": found.fault is None,
        "reason": found.fault or "",
        "detail": found.words,
        "status": found.status,
        "latency_ms": found.latency_ms,
        "model_found": found.model_found,
        "url": found.url,
    }


def hint_for(fault: ProviderFault | None) -> str:
    """What to do about a fault."""
    return _NEXT.get(fault, "try again") if fault else ""


def _or_nothing(text: str | None) -> str | None:
    """`none` takes away what was set."""
    return "" if text is not None and text.lower() == NONE else text


@app.verb(
    "add",
    "capconduit provider add main --kind openai --key env:OPENAI_API_KEY --model gpt-realtime --voice marin",
    "capconduit provider add eu --kind azure --url https://acme.openai.azure.com --key file:/etc/capconduit/azure"
    " --deployment realtime-eu",
    "capconduit provider add ears --kind deepgram --key env:DEEPGRAM_API_KEY --voice aura-2-thalia-en",
    "capconduit provider add local --kind ollama --model llama3.2",
)
def add(
    ctx: typer.Context,
    name: NewName,
    out: ChangeOutput,
    kind: Annotated[ProviderKind, typer.Option("--kind", help="Whose it is.")],
    url: Annotated[str, typer.Option("--url", metavar="URL", help=URL_HELP, show_default="the kind's own")] = "",
    key: Annotated[str, typer.Option("--key", metavar="REFERENCE", help=KEY_HELP)] = "",
    model: Annotated[str, typer.Option("--model", metavar="NAME", help=MODEL_HELP)] = "",
    text_model: Annotated[str, typer.Option("--text-model", metavar="NAME", help=TEXT_MODEL_HELP)] = "",
    voice: Annotated[str, typer.Option("--voice", metavar="NAME", help=VOICE_HELP)] = "",
    deployment: Annotated[str, typer.Option("--deployment", metavar="NAME", help=DEPLOYMENT_HELP)] = "",
    api_version: Annotated[
        str, typer.Option("--api-version", metavar="VERSION", help=VERSION_HELP, show_default="azure: 2024-10-21")
    ] = "",
    dry_run: DryRun = False,
) -> None:
    """Add a provider. It is not asked anything yet: `capconduit provider test` does."""
    from capconduit.services.providers import add_provider

    made = office(ctx, dry_run=dry_run)
    provider = add_provider(
        made,
        name,
        kind=kind,
        base_url=url,
        key_ref=key,
        model=model,
        text_model=text_model,
        voice=voice,
        deployment=deployment,
        api_version=api_version,
    )
    emit_change(made, row(provider), COLUMNS, out)


@app.verb("list", "capconduit provider list", "capconduit provider list --filter kind=openai --json")
def list_(ctx: typer.Context, out: ListOutput) -> None:
    """List the providers."""
    from capconduit.services.providers import list_providers

    emit_rows((row(provider) for provider in list_providers(office(ctx))), COLUMNS, out)


@app.verb("show", "capconduit provider show main")
def show(ctx: typer.Context, name: ProviderName, out: ShowOutput) -> None:
    """Show one provider."""
    from capconduit.services.providers import show_provider

    emit_one(row(show_provider(office(ctx), name)), COLUMNS, out)


@app.verb(
    "set",
    "capconduit provider set main --model gpt-realtime --text-model gpt-4.1-mini",
    "capconduit provider set main --key file:/etc/capconduit/openai",
    "capconduit provider set local --url http://127.0.0.1:11434 --key none",
)
def set_(
    ctx: typer.Context,
    name: ProviderName,
    out: ChangeOutput,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL|none", help=f"{URL_HELP[:-1]}; none: the kind's own.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="REFERENCE|none", help=KEY_HELP)] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME|none", help=MODEL_HELP)] = None,
    text_model: Annotated[str | None, typer.Option("--text-model", metavar="NAME|none", help=TEXT_MODEL_HELP)] = None,
    voice: Annotated[str | None, typer.Option("--voice", metavar="NAME|none", help=VOICE_HELP)] = None,
    deployment: Annotated[str | None, typer.Option("--deployment", metavar="NAME", help=DEPLOYMENT_HELP)] = None,
    api_version: Annotated[str | None, typer.Option("--api-version", metavar="VERSION|none", help=VERSION_HELP)] = None,
    dry_run: DryRun = False,
) -> None:
    """Change a provider, for the conversations that begin from now on. Its kind stays: add another one."""
    from capconduit.services.providers import set_provider

    fields = given(
        "provider",
        name,
        base_url=_or_nothing(url),
        key_ref=_or_nothing(key),
        model=_or_nothing(model),
        text_model=_or_nothing(text_model),
        voice=_or_nothing(voice),
        deployment=_or_nothing(deployment),
        api_version=_or_nothing(api_version),
    )
    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(set_provider(made, name, **fields)), COLUMNS, out)


@app.verb(
    "test",
    "capconduit provider test main",
    "capconduit provider test main --timeout 3s --json",
)
def ask(
    ctx: typer.Context,
    name: ProviderName,
    out: ShowOutput,
    timeout: Annotated[
        int, duration_option("--timeout", help="How long it may take.", show_default="10s")
    ] = _TIMEOUT_MS,
) -> None:
    """Ask a provider for what it has, which costs nothing: whether it answers, knows the key, and has the model.

    Exit code 4 where it does not do. Redirects are not followed, and the key is in no output.
    """
    from capconduit.services.trying import probe_provider

    provider, found = probe_provider(office(ctx), name, os.environ, timeout_ms=timeout)
    emit_one(probe_row(provider, found), TEST_COLUMNS, out)
    if found.fault is not None:
        raise PeerError(
            f"provider-{found.fault.value.replace('_', '-')}", f"provider {name}: {found.words}", hint_for(found.fault)
        )


@app.verb("remove", "capconduit provider remove main --yes")
def remove(ctx: typer.Context, name: ProviderName, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a provider that no agent uses. The key stays where it is."""
    from capconduit.services.providers import remove_provider

    destroy(office(ctx), f"provider {name}", lambda made: remove_provider(made, name), yes=yes, dry_run=dry_run)
