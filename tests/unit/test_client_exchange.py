"""The exchanges are run here against scripted answers: no server, no sockets, no waiting."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from flawline_client import (
    InspectionClient,
    InspectionError,
    LineNotFound,
    PictureRejected,
    ServerUnavailable,
    Verdict,
)
from flawline_client.exchange import Call, Exchange, Pause, Read, is_local
from flawline_client.regions import SHM_FOLDER
from flawline_client.wire import line_names

TENSORS = {
    "SCORE": np.array([[3.5]], dtype=np.float32),
    "P_VALUE": np.array([[0.02]], dtype=np.float32),
    "VERDICT": np.array([[2]], dtype=np.int32),
    "IS_DEFECT": np.array([[True]]),
    "ANOMALY_MAP": np.ones((1, 16, 16), dtype=np.float32),
    "MASK": np.ones((1, 16, 16), dtype=np.uint8),
    "BOXES": np.array([[[0, 0, 9, 9, 1.2, 0], [-1] * 6, [-1] * 6]], dtype=np.float32),
}


def answer_of(tensors, version: str = "1") -> SimpleNamespace:
    return SimpleNamespace(as_numpy=tensors.get, get_response=lambda: SimpleNamespace(model_version=version))


def config_of(names: str) -> SimpleNamespace:
    parameters = {"classes": SimpleNamespace(string_value=names)} if names else {}
    return SimpleNamespace(config=SimpleNamespace(parameters=parameters))


ANSWER = answer_of(TENSORS)
PIXELS = np.full((40, 50, 3), 7, dtype=np.uint8)
RESTARTED = "Unable to find shared memory region"


def exchange(**changes) -> Exchange:
    return Exchange(
        **{"url": "127.0.0.1:8001", "timeout": 10.0, "retries": 3, "shared_memory": False, **changes}
    )


def refusal(status: str, message: str = "no") -> InferenceServerException:
    return InferenceServerException(message, status=f"StatusCode.{status}")


def run(steps, *answers):
    """Take the steps, answering each in turn; an answer may be an exception or a function of the step.

    Where the names of classes are asked for and the script is over, the line has none; that step is not told.
    """
    taken, script = [], list(answers)
    try:
        step = next(steps)
        while True:
            if isinstance(step, Call) and step.method == "get_model_config" and not script:
                step = steps.send(config_of(""))
                continue
            taken.append(step)
            if isinstance(step, Pause):
                step = steps.send(None)
                continue
            answer = script.pop(0)
            answer = answer(step) if isinstance(answer, Callable) else answer
            step = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
    except StopIteration as end:
        assert not script, "not all answers were asked for"
        return end.value, taken


def methods(taken) -> list[str]:
    return [step.method if isinstance(step, Call) else type(step).__name__ for step in taken]


def regions() -> list[str]:
    return [path.name for path in SHM_FOLDER.glob(f"flawline_client_{os.getpid()}_*")]


def test_an_answer_is_read_by_the_contract():
    inspection, taken = run(exchange().inspect("bolts", b"file", "a.png"), ANSWER)

    assert taken[0].arguments["model_name"] == "bolts"
    assert (inspection.line, inspection.source) == ("bolts", "a.png")
    assert inspection.score == pytest.approx(3.5)
    assert inspection.p_value == pytest.approx(0.02)
    assert (inspection.verdict, inspection.is_defect) == (Verdict.REJECT, True)
    assert inspection.anomaly_map.shape == inspection.mask.shape == (16, 16)
    assert inspection.boxes.tolist() == [pytest.approx([0, 0, 9, 9, 1.2, 0])]


DECIDED = {name: TENSORS[name] for name in ("SCORE", "P_VALUE", "VERDICT", "IS_DEFECT")}


@pytest.mark.parametrize("picture", [b"file", PIXELS])
def test_a_decision_asks_for_nothing_else(picture):
    decision, taken = run(exchange().decide("bolts", picture, "a.png"), answer_of(DECIDED))
    assert methods(taken) == ["infer"]
    assert {output.name() for output in taken[0].arguments["outputs"]} == set(DECIDED)
    assert taken[0].arguments["parameters"] == {"decision_only": True}, (
        "an ensemble's stages see nothing else"
    )
    assert (decision.line, decision.source, decision.is_defect) == ("bolts", "a.png", True)
    assert (decision.verdict, decision.score) == (Verdict.REJECT, pytest.approx(3.5))
    whole, taken = run(exchange().inspect("bolts", picture, "a.png"), ANSWER)
    assert not {"outputs", "parameters"} & taken[0].arguments.keys()
    assert decision.to_json() | {"latency_ms": 0, "boxes": []} == whole.to_json() | {
        "latency_ms": 0,
        "boxes": [],
    }


def test_a_line_that_knows_two_answers_is_asked_for_all_it_has():
    older = {**TENSORS, "VERDICT": None}
    unknown = refusal("INVALID_ARGUMENT", "unexpected inference output 'VERDICT' for model 'bolts'")
    decision, taken = run(exchange().decide("bolts", b"file", "a.png"), unknown, answer_of(older))
    assert ["outputs" in step.arguments for step in taken] == [True, False]
    assert decision.verdict is Verdict.REJECT
    with pytest.raises(PictureRejected):
        run(exchange().decide("bolts", b"file", "a.png"), refusal("INVALID_ARGUMENT"))


def test_a_decision_without_what_it_needs_is_told():
    with pytest.raises(InspectionError, match="lacks SCORE"):
        run(exchange().decide("bolts", b"file", "a.png"), answer_of({**DECIDED, "SCORE": None}))


@pytest.mark.parametrize(
    ("is_defect", "verdict"), [(True, Verdict.REJECT), (False, Verdict.PASS)], ids=["defect", "good"]
)
def test_a_line_that_was_published_with_two_answers_is_still_understood(is_defect, verdict):
    older = {**TENSORS, "IS_DEFECT": np.array([[is_defect]]), "VERDICT": None}
    inspection, _ = run(exchange().inspect("bolts", b"file", "a.png"), answer_of(older))
    assert (inspection.verdict, inspection.is_defect) == (verdict, is_defect)


def test_names_of_classes_are_asked_for_once_for_each_version():
    talk = exchange()
    named = {**TENSORS, "BOXES": np.array([[[0, 0, 9, 9, 1.2, 1], [1, 1, 2, 2, 1.1, 7]]], dtype=np.float32)}
    answers = answer_of(named), config_of('["crack", "stain"]')
    inspection, taken = run(talk.inspect("bolts", b"file", "a.png"), *answers)
    assert taken[-1].arguments["model_name"] == "bolts"
    assert taken[-1].arguments["model_version"] == "1"
    assert [box.get("name") for box in inspection.to_json()["boxes"]] == ["stain", None]
    again, taken = run(talk.inspect("bolts", b"file", "a.png"), answer_of(named))
    assert again.classes == ("crack", "stain")
    assert methods(taken) == ["infer"]
    newer, _ = run(
        talk.inspect("bolts", b"file", "a.png"), answer_of(named, "2"), config_of('["dent", "hole"]')
    )
    assert newer.classes == ("dent", "hole")


@pytest.mark.parametrize("told", [refusal("UNIMPLEMENTED"), config_of(""), config_of("no list")])
def test_an_answer_stands_without_names(told):
    inspection, _ = run(exchange().inspect("bolts", b"file", "a.png"), ANSWER, told)
    assert inspection.classes == ()
    assert len(inspection.boxes) == 1


def test_content_arrives_whole_even_with_zero_bytes_at_its_end():
    content = b"\x89PNG\x00\x00"
    _, taken = run(exchange().inspect("bolts", content, "a"), ANSWER)

    (tensor,) = taken[0].arguments["inputs"]
    assert (tensor.name(), list(tensor.shape()), tensor.datatype()) == ("IMAGE", [1, 1], "BYTES")
    assert tensor._get_content() == len(content).to_bytes(4, "little") + content


@pytest.mark.parametrize(("line", "model"), [("bolts", "bolts_pixels"), ("bolts_fused", "bolts_fused")])
def test_arrays_go_to_the_model_that_takes_pixels(line, model):
    _, taken = run(exchange().inspect(line, PIXELS, "a"), ANSWER)

    (tensor,) = taken[0].arguments["inputs"]
    assert taken[0].arguments["model_name"] == model
    assert (tensor.name(), list(tensor.shape())) == ("PIXELS", [1, 40, 50, 3])
    assert tensor._get_content() == PIXELS.tobytes()


@pytest.mark.parametrize(
    "array",
    [PIXELS.astype(np.float32), PIXELS[..., 0], PIXELS[..., :2], np.zeros((0, 4, 3), dtype=np.uint8)],
    ids=["float", "grey", "two channels", "empty"],
)
def test_arrays_that_are_no_pictures_are_refused_before_anything_is_sent(array):
    with pytest.raises(PictureRejected, match="send uint8"):
        run(exchange().inspect("bolts", array, "a"))


def test_a_file_that_cannot_be_read_is_a_rejected_picture():
    steps = exchange().inspect("bolts", Path("gone.png"), "gone.png")
    with pytest.raises(PictureRejected, match=r"gone.png: the file cannot be read") as caught:
        run(steps, FileNotFoundError(2, "No such file or directory"))
    assert caught.value.source == "gone.png"


@pytest.mark.timeout(20)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with InspectionClient("127.0.0.1:9", timeout=5) as client:
        with pytest.raises(
            PictureRejected, match=r"x\.png: the file cannot be read \(it is no file, but a pipe"
        ):
            client.inspect("bolts", tmp_path / "x.png")
        with pytest.raises(PictureRejected, match="Is a directory"):
            client.inspect("bolts", tmp_path)


def test_unavailable_is_asked_again_after_growing_pauses():
    down = refusal("UNAVAILABLE")
    inspection, taken = run(exchange().inspect("bolts", b"x", "a"), down, down, down, ANSWER)

    assert inspection.is_defect
    assert methods(taken) == ["infer", "Pause", "infer", "Pause", "infer", "Pause", "infer"]
    pauses = [step.seconds for step in taken if isinstance(step, Pause)]
    for pause, longest in zip(pauses, (0.25, 0.5, 1.0), strict=True):
        assert longest / 2 <= pause <= longest


def test_a_line_that_is_not_loaded_is_asked_again():
    unloaded = refusal("NOT_FOUND", "Request for unknown model: 'bolts' has no available versions")
    _, taken = run(exchange().inspect("bolts", b"x", "a"), unloaded, ANSWER)
    assert methods(taken) == ["infer", "Pause", "infer"]
    with pytest.raises(ServerUnavailable, match=r"line 'bolts' at .* is not loaded"):
        run(exchange(retries=0).inspect("bolts", b"x", "a"), unloaded)


def test_retries_end():
    down = refusal("UNAVAILABLE", "Connection refused")
    with pytest.raises(ServerUnavailable, match=r"a: the server at 127.0.0.1:8001 .*Connection refused"):
        run(exchange(retries=2).inspect("bolts", b"x", "a"), down, down, down)


def test_no_pause_goes_beyond_the_timeout():
    steps = exchange(timeout=0.05).inspect("bolts", b"x", "a")
    with pytest.raises(ServerUnavailable):
        run(steps, refusal("UNAVAILABLE"))  # one call only: a second answer would be missing


def test_each_call_gets_the_time_that_is_left():
    _, taken = run(exchange(timeout=4).inspect("bolts", b"x", "a"), refusal("UNAVAILABLE"), ANSWER)
    first, _, second = taken
    assert 0 < second.arguments["client_timeout"] < first.arguments["client_timeout"] <= 4
    for asked in (first, second):  # the server drops what nobody waits for any more
        assert asked.arguments["timeout"] == round(asked.arguments["client_timeout"] * 1e6)


@pytest.mark.parametrize(
    ("status", "message", "kind", "said"),
    [
        (
            "INVALID_ARGUMENT",
            "in ensemble 'bolts', it is damaged",
            PictureRejected,
            "rejects .*: it is damaged",
        ),
        ("NOT_FOUND", "unknown model", LineNotFound, "no line 'bolts'"),
        ("INVALID_ARGUMENT", "unexpected inference input 'IMAGE' for model", LineNotFound, "no line 'bolts'"),
        (
            "INVALID_ARGUMENT",
            "inference input 'PIXELS' data-type is 'UINT8', but model 'bolts_pixels' expects 'UINT16'",
            PictureRejected,
            "PIXELS are uint8, and line 'bolts' takes uint16",
        ),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", ServerUnavailable, "no answer within 10 s"),
        ("INTERNAL", "boom\n\nAt:\n  model.py", InspectionError, "with INTERNAL: boom; its log tells more"),
    ],
)
def test_other_refusals_are_told_apart_and_never_repeated(status, message, kind, said):
    with pytest.raises(InspectionError, match=said) as caught:
        run(exchange().inspect("bolts", b"x", "a.png"), refusal(status, message))
    assert type(caught.value) is kind
    assert caught.value.message.startswith("a.png: ")


def test_an_answer_of_a_model_that_is_no_line_is_an_error():
    partial = SimpleNamespace(as_numpy={"SCORE": TENSORS["SCORE"]}.get)
    with pytest.raises(InspectionError, match="lacks P_VALUE"):
        run(exchange().inspect("stage", b"x", "a"), partial)


def test_shared_memory_is_registered_once_and_reused():
    talk = exchange(shared_memory=True)
    _, first = run(talk.inspect("bolts", PIXELS, "a"), None, ANSWER)
    _, second = run(talk.inspect("bolts", PIXELS[:20], "b"), ANSWER)  # smaller: fits the same region

    assert methods(first) == ["register_system_shared_memory", "infer"]
    assert methods(second) == ["infer"]
    (tensor,) = first[1].arguments["inputs"]
    assert tensor._get_content() is None
    (name,) = regions()
    assert first[0].arguments["key"] == f"/{name}"
    assert (SHM_FOLDER / name).read_bytes()[: PIXELS[:20].nbytes] == PIXELS[:20].tobytes()

    _, farewell = run(talk.close(), None)
    assert methods(farewell) == ["unregister_system_shared_memory"]
    assert regions() == []


def test_a_picture_too_large_for_the_region_gets_a_larger_one():
    talk = exchange(shared_memory=True)
    run(talk.inspect("bolts", PIXELS, "a"), None, ANSWER)
    _, taken = run(talk.inspect("bolts", np.zeros((400, 500, 3), dtype=np.uint8), "b"), None, ANSWER)
    assert methods(taken) == ["register_system_shared_memory", "infer"]
    assert taken[0].arguments["byte_size"] >= 400 * 500 * 3
    run(talk.close(), None, None)
    assert regions() == []


def test_a_server_that_refuses_shared_memory_gets_the_pixels_over_grpc():
    talk = exchange(shared_memory=True)
    _, first = run(talk.inspect("bolts", PIXELS, "a"), refusal("INTERNAL", "Unable to open"), ANSWER)
    _, second = run(talk.inspect("bolts", PIXELS, "b"), ANSWER)
    run(talk.close(), None)

    assert methods(first) == ["register_system_shared_memory", "infer"]
    assert methods(second) == ["infer"]  # not even tried again
    for call in (first[1], second[0]):
        (tensor,) = call.arguments["inputs"]
        assert tensor._get_content() == PIXELS.tobytes()


def test_a_restarted_server_that_lost_the_region_gets_the_pixels_over_grpc_once():
    talk = exchange(shared_memory=True)

    def lost(call):
        name = call.arguments["inputs"][0]._get_tensor().parameters["shared_memory_region"].string_param
        return refusal("NOT_FOUND", f"{RESTARTED}: '{name}'")

    run(talk.inspect("bolts", PIXELS, "a"), None, ANSWER)
    _, after_restart = run(talk.inspect("bolts", PIXELS, "b"), lost, ANSWER)
    _, later = run(talk.inspect("bolts", PIXELS, "c"), None, ANSWER)
    run(talk.close(), None)

    assert methods(after_restart) == ["infer", "infer"]
    assert after_restart[1].arguments["inputs"][0]._get_content() == PIXELS.tobytes()
    assert methods(later) == ["register_system_shared_memory", "infer"]


def test_a_registration_whose_answer_was_lost_counts():
    talk = exchange(shared_memory=True)
    _, taken = run(talk.inspect("bolts", PIXELS, "a"), refusal("ALREADY_EXISTS"), ANSWER)
    assert taken[1].arguments["inputs"][0]._get_content() is None
    run(talk.close(), None)


def test_full_shared_memory_means_plain_grpc(monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    talk = exchange(shared_memory=True)
    _, taken = run(talk.inspect("bolts", PIXELS, "a"), ANSWER)
    assert taken[0].arguments["inputs"][0]._get_content() == PIXELS.tobytes()
    assert regions() == []


def test_an_abandoned_picture_gives_its_region_back():
    talk = exchange(shared_memory=True)
    steps = talk.inspect("bolts", PIXELS, "a")
    next(steps)
    steps.close()  # what a cancelled task does
    _, taken = run(talk.inspect("bolts", PIXELS, "b"), None, ANSWER)
    assert methods(taken) == ["register_system_shared_memory", "infer"]
    assert len(regions()) == 1
    run(talk.close(), None)


def test_closing_beside_a_dead_server_still_unlinks():
    talk = exchange(shared_memory=True)
    run(talk.inspect("bolts", PIXELS, "a"), None, ANSWER)
    run(talk.inspect("bolts", np.zeros((400, 500, 3), dtype=np.uint8), "b"), None, ANSWER)
    _, taken = run(talk.close(), refusal("UNAVAILABLE"))
    assert len(taken) == 1  # no second wait for a server that is gone
    assert regions() == []


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("127.0.0.1:8001", True),
        ("localhost:1", True),
        ("[::1]:8001", True),
        ("unix:/run/triton.sock", True),
        ("10.0.0.7:8001", False),
        ("127.example.org:8001", False),
        ("triton:8001", False),
    ],
)
def test_shared_memory_is_automatic_on_this_machine_only(url, local):
    assert is_local(url) is local
    talk = exchange(url=url, shared_memory="auto")
    answers = (None, ANSWER) if local else (ANSWER,)
    run(talk.inspect("bolts", PIXELS, "a"), *answers)
    run(talk.close(), *([None] if local else []))


def test_a_path_may_be_a_string():
    _, taken = run(exchange().inspect("bolts", "a.png", "a.png"), b"content", ANSWER)
    assert taken[0] == Read(Path("a.png"))


def test_lines_are_the_ready_models_with_a_door_for_pixels():
    names = {"bolts": "READY", "bolts_pixels": "READY", "bolts_fused": "READY", "preprocess": "READY"}
    names |= {"nuts": "UNAVAILABLE", "nuts_pixels": "READY"}
    models = [SimpleNamespace(name=name, state=state) for name, state in names.items()]
    lines, _ = run(exchange().lines(), SimpleNamespace(models=models))
    assert lines == ["bolts"]
    assert line_names(["a", "b", "b_pixels"]) == ["b"]


def test_ready_needs_both_doors_and_raises_nothing():
    assert run(exchange().is_ready("bolts"), True, True)[0] is True
    assert run(exchange().is_ready("bolts"), True, False)[0] is False
    assert run(exchange().is_ready("bolts_fused"), True)[0] is True
    assert run(exchange().is_ready(None), refusal("UNAVAILABLE"))[0] is False
