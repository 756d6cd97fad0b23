"""The command `flawline inspect`; `python -m flawline_client` where only the client is installed."""

import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import grpc
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table
from rich.text import Text

from flawline_client.boundary import told_in_one_sentence
from flawline_client.client import InspectionClient
from flawline_client.folders import SUFFIXES, LeftOut, identity, search, shown, tell
from flawline_client.inspection import Inspection, InspectionError, Verdict
from flawline_client.overlay import may_draw, save_overlay
from flawline_client.places import what_forbids

PICTURE_FAILED = 1
MISUSED_OR_UNREACHABLE = 2

DECISIONS = {
    Verdict.PASS: ("good", "green"),
    Verdict.LOOK_AGAIN: ("look again", "bold yellow"),
    Verdict.REJECT: ("DEFECT", "bold red"),
}
"""Word and style of each answer in the table."""

_errors = Console(stderr=True)
_URL = re.compile(r"unix(-abstract)?:\S+|(dns://[^/\s]*/)?(?P<host>[^/\s]+):(?P<port>\d{1,5})")


def seconds(value: float) -> float:
    """Return a number of seconds; refuse what is no number, which lies within every range."""
    if not math.isfinite(value):
        msg = f"{value} is no number of seconds"
        raise typer.BadParameter(msg)
    return value


def host_and_port(url: str) -> str:
    """Return the address of a server; refuse what is none."""
    match = _URL.fullmatch(url)
    if match is None or (match["port"] and not 1 <= int(match["port"]) <= 65535):
        msg = f"'{url}' is no HOST:PORT, such as 127.0.0.1:8001; leave out http://, and give a port of 1 to 65535"
        raise typer.BadParameter(msg)
    return url


def _credentials(ca: Path | None, cert: Path | None, key: Path | None) -> grpc.ChannelCredentials | None:
    if (cert is None) != (key is None) or (cert is not None and ca is None):
        msg = "give --tls-cert and --tls-key together, and --tls-ca with them"
        raise typer.BadParameter(msg)
    if ca is None:
        return None
    try:
        authority, chain, private = (None if file is None else file.read_bytes() for file in (ca, cert, key))
    except OSError as error:
        _leave(f"{error.filename} cannot be read ({error.strerror}); name a PEM file that you may read")
    return grpc.ssl_channel_credentials(authority, private, chain)


def inspect_command(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE", exists=True, help="Pictures, and folders to search for pictures."),
    ],
    line: Annotated[str, typer.Option(metavar="NAME", help="Line that judges the pictures.")],
    url: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="The server's gRPC port; dns:///HOST:PORT asks all addresses of HOST in turn.",
            callback=host_and_port,
        ),
    ] = "127.0.0.1:8001",
    overlay: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", file_okay=False, help="Write each picture there with its findings drawn."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per picture.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="Seconds that one picture may take.", callback=seconds)
    ] = 10.0,
    tls_ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Speak TLS to a server whose authority this PEM file holds."),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Certificate of this client in PEM, where the server asks for one."
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Private key of --tls-cert in PEM.")
    ] = None,
) -> None:
    """Ask a served line which pictures to reject, look at again or pass, and where a defect is.

    Exit status: 0 all pictures were answered, 1 some failed, 2 wrong usage, no such line, or no server.
    """
    credentials = _credentials(tls_ca, tls_cert, tls_key)
    pictures, left_out = find_pictures(images, overlay)
    if not pictures and overlay is not None and find_pictures(images)[0]:
        _leave(f"all pictures lie in {overlay}, where overlays would go; choose another --overlay folder")
    if not pictures:
        more = f" (left out: {tell(left_out)})" if left_out else ""
        _leave(
            f"no picture in {', '.join(map(shown, images))}{more}; "
            f"name pictures or a folder with {' '.join(SUFFIXES)}"
        )
    if any(image.is_dir() for image in images):
        folder = images[0] if len(images) == 1 else None
        more = f"{len(left_out)} left out. {tell(left_out, folder)}" if left_out else "none left out"
        _say(f"Pictures: {len(pictures)} used, {more}.")
    targets = (
        overlay_targets([below for _, below in pictures], overlay) if overlay else [None] * len(pictures)
    )
    if overlay is not None:
        _check_overlays([path for path, _ in pictures], targets)
    table = _table()
    defects = again = failed = 0
    with (
        InspectionClient(url, timeout=timeout, credentials=credentials) as client,
        _progress(hidden=as_json and sys.stdout.isatty()) as progress,
    ):
        _check_line(client, line, url, timeout)
        answers = client.inspect_many(line, (path for path, _ in pictures))
        tracked = progress.track(answers, total=len(pictures), description="Inspecting")
        for (path, _), target, answer in zip(pictures, targets, tracked, strict=True):
            if isinstance(answer, InspectionError):
                failed += 1
            else:
                defects += answer.is_defect
                again += answer.verdict is Verdict.LOOK_AGAIN
                if target is not None:
                    _draw(answer, path, target)
            if as_json:
                drawn = {"overlay": str(target)} if target and isinstance(answer, Inspection) else {}
                typer.echo(json.dumps({"line": line, **answer.to_json(), **drawn}))
            else:
                table.add_row(*_row(answer))
    if not as_json:
        counts = f"{defects} defective, {again} to look at again, {failed} failed"
        table.caption = f"{len(pictures)} on {line}: {counts}"
        Console().print(table)
    if failed:
        raise typer.Exit(PICTURE_FAILED)


def main() -> None:
    """Run `inspect_command` as a program of its own."""
    with told_in_one_sentence("flawline_client", InspectionError):
        typer.run(inspect_command)


def find_pictures(
    arguments: Iterable[Path], excluded: Path | None = None
) -> tuple[list[tuple[Path, Path]], list[LeftOut]]:
    """Files among the arguments, and pictures in and below the folders among them, by name.

    What lies in the folder `excluded` is left out of a search.

    Returns:
        Each file with its path below the folder it was found in; and what was left out of the folders, and why.

    """
    found: list[tuple[Path, Path]] = []
    left_out: list[LeftOut] = []
    for argument in arguments:
        if not argument.is_dir():
            found.append((argument, Path(argument.name)))
            continue
        try:
            searched = search(argument, excluded)
        except OSError as error:
            _leave(
                f"{shown(error.filename or argument)} cannot be read ({error.strerror}); mend its permissions"
            )
        found += [(path, path.relative_to(argument)) for path in searched.pictures]
        left_out += searched.left_out
    return found, left_out


def overlay_targets(names: Sequence[Path], folder: Path) -> list[Path]:
    """One PNG below `folder` for each name; equal names are numbered."""
    targets: list[Path] = []
    taken = set()
    for name in names:
        target, number = folder / name.with_suffix(".png"), 1
        while str(target).casefold() in taken:  # some disks take A.png and a.png for one file
            number += 1
            target = folder / name.with_name(f"{name.stem}-{number}.png")
        taken.add(str(target).casefold())
        targets.append(target)
    return targets


def _check_overlays(pictures: Sequence[Path], targets: Sequence[Path | None]) -> None:
    """Leave, before anything is asked, where an overlay would take the place of something else."""
    asked = {identity(path) for path in pictures if path.exists()}
    wanted = [target for target in targets if target is not None]
    for target in wanted:
        if target.exists() and identity(target) in asked:
            _leave(f"{target} is one of the pictures to inspect; choose another --overlay folder")
        if not may_draw(target):
            _leave(f"{target} is there and is no overlay of Flawline; choose another --overlay folder")
    for folder in sorted({target.parent for target in wanted}):
        if (fault := what_forbids(folder)) is not None:
            _leave(f"{fault}; choose another --overlay folder")


def _check_line(client: InspectionClient, line: str, url: str, timeout: float) -> None:
    if client.is_ready(line):
        return
    if not client.is_ready():
        _say(f"the server at {url} does not answer yet; it is asked again for {timeout:g} s")
    try:
        lines = client.lines()
    except InspectionError as error:
        _leave(error.message)
    if line not in lines:
        _leave(
            f"the server at {url} has no line '{line}'; it has {', '.join(lines) or 'none: build one first'}"
        )


def _draw(answer: Inspection, picture: Path, target: Path) -> None:
    try:
        save_overlay(answer, picture, target)
    except OSError as error:
        _leave(
            f"{target}: the overlay of {picture} cannot be written ({error}); choose another --overlay folder"
        )


def _table() -> Table:
    table = Table()
    table.add_column("file", overflow="fold")
    table.add_column("decision")
    for figure in ("score", "p-value", "boxes", "ms"):
        table.add_column(figure, justify="right")
    return table


def _row(answer: Inspection | InspectionError) -> Sequence[Text]:
    if isinstance(answer, InspectionError):
        return Text(shown(answer.message), "red"), Text("failed", "bold yellow")
    decision = Text(*DECISIONS[answer.verdict])
    figures = (
        f"{answer.score:.4g}",
        f"{answer.p_value:.2g}",
        f"{len(answer.boxes)}",
        f"{answer.latency_ms:.0f}",
    )
    return Text(shown(answer.source)), decision, *map(Text, figures)


def _progress(*, hidden: bool) -> Progress:
    """Bar on standard error; rich would otherwise catch standard output and print it there too."""
    return Progress(
        *Progress.get_default_columns(),
        MofNCompleteColumn(),
        console=_errors,
        transient=True,
        redirect_stdout=False,
        disable=hidden or not _errors.is_terminal,
    )


def _say(message: str) -> None:
    _errors.print(shown(message), markup=False, highlight=False, emoji=False, soft_wrap=True)


def _leave(message: str) -> NoReturn:
    _say(message)
    raise typer.Exit(MISUSED_OR_UNREACHABLE)
