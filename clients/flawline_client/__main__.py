"""`python -m flawline_client`: the command `flawline inspect` without the rest of Flawline."""

from flawline_client.cli import main

main()
