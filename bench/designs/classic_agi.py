"""The AGI script of the classic design: environment from standard input, one HTTP request, one command, its reply.

With the standard library's HTTP client: `requests` would take as long again to import.
"""

import json
import sys
from urllib.request import Request, urlopen

TIMEOUT_S = 30


def main(base: str) -> None:
    """One exchange."""
    fields = dict(line.rstrip("\n").split(": ", 1) for line in iter(sys.stdin.readline, "\n"))
    args = [fields[f"agi_arg_{place}"] for place in (1, 3)]
    script = fields["agi_network_script"]
    body = json.dumps({"uniqueid": args[0], "number": args[1]}).encode()
    request = Request(f"{base}/{script}", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=TIMEOUT_S) as response:
        answer = json.load(response)
    sys.stdout.write('EXEC MSet "' + ",".join(f"{name}={value}" for name, value in answer.items()) + '"\n')
    sys.stdout.flush()
    sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1])
