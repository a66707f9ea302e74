"""The nouns: one module per noun, named like it, imported only when the noun is used.

How to write one. Add a line to NOUNS in capconduit_cli/app.py, then capconduit_cli/commands/<noun>.py:

    app = NounApp("What follows the noun's one line in its help and man page; may be empty.")

    COLUMNS = (
        Column("name"),
        Column("status"),
        Column("currency"),
        Column("balance", Kind.MONEY, source="balance_micros"),
        Column("created", Kind.INSTANT, source="created_ms", shown=False),
    )

    @app.verb("list", "capconduit seller list", "capconduit seller list --sort -balance --json")
    def list_(ctx: typer.Context, out: ListOutput) -> None:
        "List the sellers and what they have left."
        from capconduit.services import sellers  # heavy imports stay inside of the verb

        emit_rows((row(view) for view in sellers.list_sellers(office(ctx))), COLUMNS, out)

    @app.verb("add", "capconduit seller add acme --currency USD")
    def add(
        ctx: typer.Context,
        name: Annotated[str, typer.Argument(metavar="NAME", help="The seller's name.")],
        out: ChangeOutput,
        currency: Annotated[str, typer.Option("--currency", metavar="CODE", help="ISO code, for example USD.")] = "USD",
        credit: Annotated[Amount | None, amount_option("--credit-limit", help="How far below zero.")] = None,
        dry_run: DryRun = False,
    ) -> None:
        "Add a seller."
        made = office(ctx, dry_run=dry_run)
        emit_change(made, row(add_seller(made, name, ...)), COLUMNS, out)

A module that is one command instead of verbs (`init`, `route`) has `@single("capconduit route ...")` above its
function, which is called `app`.

Rules. The docstring is the help, its first paragraph the one line in lists; examples are given with the verb and there
is at least one. Money, durations and instants are read by amount_option, duration_option and instant_option; an amount
may name a currency, so it becomes micros only by `within` that of the account. A failure is an exception of
capconduit.errors: its slug, message and hint are what the operator sees, its class is the exit code. Data go out by
emit_rows, emit_one and emit_change, words by notice; what removes goes through destroy, which asks. Names complete: see
capconduit_cli.names. JSON keys are stable and stand in docs/json.md. After a change run
`python -m capconduit_cli.docgen --write`.
"""
