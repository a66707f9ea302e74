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

        emit_rows(sellers.listed(state(ctx)...), COLUMNS, out)

    @app.verb("add", "capconduit seller add acme --currency USD")
    def add(
        ctx: typer.Context,
        name: Annotated[str, typer.Argument(metavar="NAME", help="The seller's name.")],
        out: ChangeOutput,
        currency: Annotated[str, typer.Option("--currency", metavar="CODE", help="ISO code, for example USD.")] = "USD",
        credit_micros: Annotated[int, money_option("--credit", help="How far below zero.", show_default="0")] = 0,
        dry_run: DryRun = False,
    ) -> None:
        "Add a seller."

A module that is one command instead of verbs (`init`, `route`) has `@single("capconduit route ...")` above its
function, which is called `app`.

Rules. The docstring is the help, its first paragraph the one line in lists; examples are given with the verb and there
is at least one. Money, durations and instants are read by money_option, duration_option and instant_option. A failure
is an exception of capconduit.errors: its slug, message and hint are what the operator sees, its class is the exit code;
other exit codes are `raise typer.Exit(ExitCode.DRIFT)`. Data go out by emit_rows and emit_one, words by notice; what
destroys asks with confirm(..., yes=yes). Names complete with `autocompletion=completer(function of the state)`.
After a change run `python -m capconduit_cli.docgen --write`.
"""
