"""Bad requests to every stage and every door of a real server while good clients ask: each harms itself alone."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from asking import image, pixels, server_of
from frozen_line import Bad, bad_to_doors, bad_to_stages, good_tensors, pictures, png, publish_frozen
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from flawline.artefact.served import ServedLine

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

ROUNDS = 3
STOP_S = 6.0


def stages_of(server: int) -> set[str]:
    """Processes of a server, one for each Python stage."""
    return set(Path(f"/proc/{server}/task/{server}/children").read_text().split())


def test_no_bad_request_harms_another(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    publish_frozen(repository)
    shown = pictures()
    line = ServedLine(repository / "frozen_discrepancy" / "1", threads=1)
    expected = [verdict.score for verdict in line.inspect(shown)]
    bad = [*bad_to_stages(good_tensors()), *bad_to_doors()]
    over, good = threading.Event(), [0] * 4
    with server_of(repository) as server, InferenceServerClient(server.grpc_url) as client:

        def ask(number: int) -> None:
            while not over.is_set():
                for place, picture in enumerate(shown):
                    door, sent = (
                        ("frozen", image(png(picture))),
                        ("frozen_pixels", pixels(picture)),
                        ("frozen_fused", image(png(picture))),
                        ("frozen_pixels", pixels(picture)),
                    )[number]
                    answer = client.infer(door, [sent], client_timeout=60).as_numpy("SCORE")
                    assert answer is not None
                    assert answer.item() == pytest.approx(expected[place], rel=1e-4)
                    good[number] += 1

        def misuse(job: Bad) -> str:
            model, sent, said = job
            try:
                client.infer(model, sent, client_timeout=60)
            except InferenceServerException as error:
                status, message = str(error.status()), str(error.message())
            else:
                return f"{model} answered, where it is to say {said!r}"
            if said not in message or "\n" in message or "please report" in message:
                return f"{model} answered {status} {message!r}, not {said!r}"
            if status not in ("StatusCode.INVALID_ARGUMENT", "StatusCode.INTERNAL"):
                return f"{model} answered {status}"
            return ""

        processes = stages_of(server.pid)
        with ThreadPoolExecutor(4) as asking, ThreadPoolExecutor(12) as misusing:
            clients = [asking.submit(ask, number) for number in range(4)]
            try:
                problems = [problem for problem in misusing.map(misuse, bad * ROUNDS) if problem]
            finally:
                over.set()
        assert [each.exception() for each in clients] == [None] * 4
        assert problems == []
        assert min(good) > 0
        assert len(processes) >= 7
        assert stages_of(server.pid) == processes, "no stage died and was started anew"
        started = time.monotonic()
        os.kill(server.pid, 15)
        server.wait()
        assert time.monotonic() - started < STOP_S
