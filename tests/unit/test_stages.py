"""What stages do where something unforeseen happens to a request, without a server: Triton's module is made up."""

import asyncio
import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flawline.errors import ArtefactError, PictureError, RequestError
from flawline.scoring import fusion, verdict
from flawline.scoring.finding import Finding
from flawline.scoring.picture import Geometry
from flawline.scoring.settings import LineSettings, PartSettings
from flawline_client.wire import decision_alone

MODELS = Path(__file__).parents[2] / "model_repository"
STAGES = ("triton", "answers", "decoding", "bank_model", "graph_model", "fused_model")


class Tensor:
    def __init__(self, name: str, values: np.ndarray) -> None:
        self.name, self._values = name, values

    def as_numpy(self) -> np.ndarray:
        return self._values


class TritonError:
    INVALID_ARG, INTERNAL = "INVALID_ARG", "INTERNAL"

    def __init__(self, message: str, code: str) -> None:
        self.text, self.code = message, code

    def message(self) -> str:
        return self.text


class InferenceResponse:
    def __init__(self, tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        self.tensors, self._error = tensors or [], error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    @property
    def told(self) -> tuple[str, str]:
        assert self._error is not None
        return self._error.code, self._error.text


class Request:
    def __init__(self, **values: np.ndarray) -> None:
        self.tensors = {name: Tensor(name, each) for name, each in values.items()}

    wanted: tuple[str, ...] = ("RATIO_MAP",)
    told = "{}"

    def parameters(self) -> str:
        return self.told

    def requested_output_names(self) -> list[str]:
        return list(self.wanted)

    def asking(self, *names: str) -> "Request":
        self.wanted = names
        return self


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Makes flawline.serving importable here; gives what stages log."""
    lines: list[str] = []
    made_up: Any = ModuleType("triton_python_backend_utils")
    made_up.Tensor, made_up.TritonError, made_up.InferenceResponse = Tensor, TritonError, InferenceResponse
    made_up.Logger = SimpleNamespace(log_error=lines.append)
    made_up.get_input_tensor_by_name = lambda request, name: request.tensors.get(name)
    made_up.get_output_tensor_by_name = lambda response, name: next(
        tensor for tensor in response.tensors if tensor.name == name
    )
    names = [f"flawline.serving.{name}" for name in STAGES]
    kept = {name: sys.modules.pop(name, None) for name in names}
    monkeypatch.setitem(sys.modules, made_up.__name__, made_up)
    yield lines
    for name, module in kept.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def stage(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"stage_{name}", MODELS / name / "1" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_unforeseen_error_is_that_of_its_request_alone(logged: list[str]) -> None:
    from flawline.serving import triton

    def respond(requests: list[str]) -> list[str]:
        if "bad" in requests:
            msg = "cannot reshape\narray"
            raise ValueError(msg)
        return [f"{request} answered" for request in requests]

    answers = triton.together(respond, ["a", "bad", "b"])
    assert (answers[0], answers[2]) == ("a answered", "b answered")
    code, text = answers[1].told
    assert code == "INTERNAL"
    assert text.startswith("the stage failed on this request (ValueError: cannot reshape array)")
    assert "Traceback" in logged[-1]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestError("x is missing"), "INVALID_ARG"),
        (PictureError("x is missing"), "INVALID_ARG"),
        (ArtefactError("x is missing"), "INTERNAL"),
    ],
)
def test_an_error_is_refused_or_failed_by_whose_fault_it_is(
    logged: list[str], error: Exception, code: str
) -> None:
    from flawline.serving import triton

    assert triton.failure(error).told == (code, "x is missing")
    assert logged == []


@pytest.mark.parametrize("text", ["0", "-1", "many", "1e3", "5000", ""])
def test_the_number_of_threads_has_bounds(logged: list[str], text: str) -> None:
    from flawline.serving import triton

    def arguments(value: str) -> dict[str, str]:
        config = {"parameters": {"THREADS": {"string_value": value}}}
        return {"model_name": "preprocess", "model_config": json.dumps(config)}

    assert triton.threads(arguments("3")) == 3
    with pytest.raises(ArtefactError, match=f"THREADS in the .* of preprocess is '{text}'; give 1 to 4096"):
        triton.threads(arguments(text))


def test_a_missing_tensor_is_named(logged: list[str]) -> None:
    from flawline.serving import triton

    with pytest.raises(RequestError, match="GEOMETRY is missing; send all tensors"):
        triton.array(Request(), "GEOMETRY")


def test_pictures_that_are_large_together_are_decoded_apart(
    logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flawline.serving import decoding

    monkeypatch.setattr(decoding, "REQUEST_PIXELS", 3000)
    decoder = decoding.Decoder(1)
    small, large = np.zeros((1, 20, 50, 3), np.uint8), np.zeros((1, 50, 50, 3), np.uint8)
    several = np.zeros((4, 20, 50, 3), np.uint8)
    broken = Request(IMAGE=np.array([[b"no picture"]], np.object_))
    requests = [Request(PIXELS=each) for each in (small, small, large, small, several)] + [broken]
    shares = list(decoder.shares(requests))
    assert [len(share) for share in shares] == [2, 1, 1, 1, 1]
    assert [request for share in shares for request in share] == requests
    refused, unread = decoder.read(requests[-2:])
    assert "the 4 pictures of the request have 4000 pixels together, over the limit of 3000" in str(refused)
    assert "not a JPEG" in str(unread)
    assert [len(each) for each in decoder.read(shares[0])] == [1, 1]
    decoder.close()


class Bank:
    """Stands for both banks; fails where more than one picture is asked about, or the picture of zeros."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.wanted: list[list[str]] = []

    def request(self, **arguments: Any) -> Any:
        embedding = arguments["inputs"][0].as_numpy()

        async def execute() -> InferenceResponse:
            self.wanted.append(arguments["requested_output_names"])
            self.asked.append(len(embedding))
            if len(embedding) > 1 or not embedding.any():
                return InferenceResponse(error=TritonError("no memory", "INTERNAL"))
            grid = np.ones(embedding.shape[:-1], np.float32)
            return InferenceResponse([Tensor("DISTANCE", grid), Tensor("CROWDING", grid)])

        return SimpleNamespace(async_exec=execute)


def test_pictures_that_a_bank_refuses_together_are_asked_about_alone(logged: list[str]) -> None:
    from flawline.scoring.ratio import RatioSettings

    module, bank = stage("ratio_scoring"), Bank()
    module.pb_utils.InferenceRequest = bank.request
    rules = SimpleNamespace(
        settings=SimpleNamespace(windows=None), place=lambda width, height: Geometry.fit(width, height, 128)
    )
    line = module.ScoredLine(rules, RatioSettings(), (4, 4, 3))
    model = module.TritonPythonModel()
    model.shelf = SimpleNamespace(get=lambda key: line)

    def asking(value: float, place: tuple[int, int] = (60, 60)) -> Request:
        return Request(
            EMBEDDING=np.full((1, 4, 4, 3), value, np.float32),
            ARTEFACT_KEY=np.array([[1, 2]], np.int32),
            GEOMETRY=np.array([place], np.int32),
        )

    requests = [asking(1), asking(0), asking(2), asking(np.nan), asking(1, (0, 0)), Request()]
    answers = asyncio.run(model.execute(requests))
    assert bank.asked == [3, 1, 1, 1]
    assert bank.wanted == [["DISTANCE"]] * 4, "by default no score looks at neighbourhoods"
    assert [answer.has_error() for answer in answers] == [False, True, False, True, True, True]
    assert answers[1].told == ("INTERNAL", "no memory")
    assert [answer.told[0] for answer in answers[3:]] == ["INVALID_ARG"] * 3
    assert answers[5].told[1].startswith("ARTEFACT_KEY is missing")
    assert answers[0].tensors[0].as_numpy().shape == (1, 4, 4)


def test_a_bank_makes_what_is_asked_for(logged: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from flawline.scoring.knn import BankIndex
    from flawline.serving.bank_model import BankModel

    searches: list[bool] = []
    search = BankIndex.search

    def counted(index: BankIndex, features: Any, *, crowded: bool = True) -> Any:
        searches.append(crowded)
        return search(index, features, crowded=crowded)

    monkeypatch.setattr(BankIndex, "search", counted)
    index = BankIndex(np.eye(3, dtype=np.float32), np.array([[1], [2], [0]]), threads=1)
    model = BankModel()
    model.shelf = SimpleNamespace(get=lambda key: index)  # type: ignore[assignment]

    def request() -> Request:
        return Request(EMBEDDING=np.ones((1, 2, 2, 3), np.float32), ARTEFACT_KEY=np.array([[1, 2]], np.int32))

    plain = [request().asking("DISTANCE"), request().asking("DISTANCE")]
    both = [request().asking("DISTANCE", "CROWDING"), request().asking("DISTANCE")]
    named = [[tensor.name for tensor in answer.tensors] for answer in model.execute(plain)]
    assert named == [["DISTANCE"], ["DISTANCE"]]
    named = [[tensor.name for tensor in answer.tensors] for answer in model.execute(both)]
    assert named == [["DISTANCE", "CROWDING"], ["DISTANCE"]]
    assert searches == [False, True], "one search for all requests of a bank"


def test_one_verdict_that_cannot_be_made_costs_no_other(
    logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = stage("postprocess")
    model = module.TritonPythonModel()

    def verdicts(request: Any) -> Iterator[Any]:
        if request == "bad":
            raise ZeroDivisionError
        return iter([request])

    monkeypatch.setattr(model, "rulings", lambda request, ruled: verdicts(request.name))
    monkeypatch.setattr(module, "respond", lambda found, wanted: found)
    monkeypatch.setattr(module, "wanted_by", lambda request: set())
    requests = [SimpleNamespace(name=name) for name in ("a", "bad", "b")]
    good, bad, other = model.execute(requests)
    assert (good, other) == (["a"], ["b"])
    assert bad.told[1].startswith("the stage failed on this request (ZeroDivisionError")


DECIDED = ("SCORE", "P_VALUE", "VERDICT", "IS_DEFECT")
SHOWN = ("ANOMALY_MAP", "MASK", "BOXES")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often what a decision does not need was done."""
    done: Counter[str] = Counter()

    def counted(name: str, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            done[name] += 1
            return function(*arguments, **named)

        return call

    for name in ("regions_of", "mask_of", "strongest_boxes"):
        monkeypatch.setattr(verdict, name, counted(name, getattr(verdict, name)))
    for name in ("smooth", "combine"):
        monkeypatch.setattr(fusion, name, counted(name, getattr(fusion, name)))
    return done


MAP = PartSettings(name="sacd", gives=("map",), sigma=2.0)
SCORED = PartSettings(name="exdd", gives=("map", "score"), sigma=2.0)
SETTINGS = LineSettings(
    size=64, false_alarm=0.05, pixel_threshold=0.5, min_area=4, peak_share=0.5, parts=(MAP, SCORED)
)
CALIBRATION = np.linspace(0, 1, 19, dtype=np.float32)
NEEDED = {"smooth": 1, "combine": 1}
"""A decision needs the map of the part without a score, and the scores of both as one."""
ALL = {"smooth": 2, "combine": 2, "regions_of": 1, "mask_of": 1, "strongest_boxes": 1}


def postprocess(model: Any) -> Any:
    rules = SimpleNamespace(
        settings=SETTINGS,
        calibration=SimpleNamespace(scores=CALIBRATION),
        place=lambda width, height: Geometry.fit(width, height, 64),
    )
    model.shelf = SimpleNamespace(get=lambda key: rules)
    return model


def scored_request() -> Request:
    hot = np.zeros((1, 16, 16), np.float32)
    hot[0, 4:7, 5:9] = 3.0
    return Request(
        ARTEFACT_KEY=np.array([[1, 2]], np.int32),
        GEOMETRY=np.array([[64, 48]], np.int32),
        MAP_1=hot,
        MAP_2=hot,
        SCORE_2=np.array([[2.0]], np.float32),
    )


def tensors_of(response: InferenceResponse) -> dict[str, np.ndarray]:
    assert not response.has_error(), response.told
    return {tensor.name: tensor.as_numpy() for tensor in response.tensors}


@pytest.mark.parametrize(
    ("wanted", "needed"),
    [(DECIDED, NEEDED), (("VERDICT",), NEEDED), ((*DECIDED, *SHOWN), ALL), (("BOXES", "SCORE"), ALL)],
)
def test_only_what_is_asked_for_is_made_and_sent(
    logged: list[str], work: Counter[str], wanted: tuple[str, ...], needed: dict[str, int]
) -> None:
    model = postprocess(stage("postprocess").TritonPythonModel())
    (response,) = model.execute([scored_request().asking(*wanted)])
    assert work == needed
    found = tensors_of(response)
    assert set(found) == set(wanted)
    (everything,) = model.execute([scored_request().asking(*DECIDED, *SHOWN)])
    for name, values in tensors_of(everything).items():
        if name in wanted:
            np.testing.assert_array_equal(found[name], values)


def test_a_stage_of_an_ensemble_hears_of_it_by_a_parameter(logged: list[str], work: Counter[str]) -> None:
    """It is asked for all outputs of the ensemble, whatever the client asks for."""
    model = postprocess(stage("postprocess").TritonPythonModel())
    request = scored_request().asking(*DECIDED, *SHOWN)
    request.told = json.dumps(decision_alone()["parameters"])
    (response,) = model.execute([request])
    assert work == NEEDED
    assert set(tensors_of(response)) == set(DECIDED)


def test_a_fused_line_shows_those_who_ask_and_runs_its_graph_once(
    logged: list[str], work: Counter[str]
) -> None:
    from flawline.artefact.served import ServedLine
    from flawline.serving.decoding import Decoder
    from flawline.serving.fused_model import FusedModel

    batches: list[int] = []

    def run(pictures: np.ndarray) -> dict[str, np.ndarray]:
        batches.append(len(pictures))
        return {"A": np.full((len(pictures), 8, 8), 2.0, np.float32), "B": np.ones((len(pictures), 1))}

    line = ServedLine.__new__(ServedLine)
    line.size, line.graph = 64, SimpleNamespace(run=run)  # type: ignore[assignment]
    line.rules = SimpleNamespace(  # type: ignore[assignment]
        settings=SETTINGS.model_copy(update={"parts": (SCORED,)}),
        calibration=SimpleNamespace(scores=CALIBRATION),
        ignored=None,
        place=lambda width, height: None,
    )
    line._finders = [
        SimpleNamespace(find=lambda arrays, geometry: Finding(map=arrays["A"], score=arrays["B"].item()))
    ]
    model = FusedModel()
    model.line, model.decoder = line, Decoder(2)
    pixels = np.zeros((1, 20, 50, 3), np.uint8)
    broken = Request(IMAGE=np.array([[b"no picture"]], np.object_)).asking("VERDICT")
    requests = [Request(PIXELS=pixels).asking(*names) for names in (DECIDED, ("MASK", "VERDICT"))]
    twice = Request(PIXELS=np.concatenate((pixels, pixels))).asking("VERDICT")
    first, refused, second, third = model.execute([requests[0], broken, requests[1], twice])
    model.finalize()
    assert batches == [4]
    assert work == {"smooth": 1, "regions_of": 1, "mask_of": 1, "strongest_boxes": 1}
    assert [list(tensors_of(answer)) for answer in (first, second, third)] == [
        list(DECIDED),
        ["VERDICT", "MASK"],
        ["VERDICT"],
    ]
    assert tensors_of(third)["VERDICT"].shape == (2, 1)
    assert refused.told[0] == "INVALID_ARG"
