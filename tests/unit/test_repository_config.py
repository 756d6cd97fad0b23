"""Model configurations: what goes in comes out, and what is wrong or would be lost is named."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from pydantic import ValidationError
from tritonclient.grpc.model_config_pb2 import ModelConfig as Message

from flawline.errors import ArtefactError
from flawline.repository.model_config import (
    DynamicBatching,
    EnsembleStep,
    InstanceGroup,
    ModelConfig,
    QueuePolicy,
    Tensor,
)

HAND_WRITTEN = sorted((Path(__file__).parents[2] / "model_repository").glob("*/config.pbtxt"))

X = Tensor(name="X", dtype="TYPE_FP32", dims=(3, -1))
Y = Tensor(name="Y", dtype="TYPE_BOOL", dims=(1,))

STAGE: dict[str, Any] = {
    "name": "stage",
    "backend": "python",
    "max_batch_size": 8,
    "inputs": (X, Tensor(name="FILE", dtype="TYPE_STRING", dims=(1,), optional=True, ragged=True)),
    "outputs": (Y,),
    "dynamic_batching": DynamicBatching(
        max_queue_delay_us=500, queue=QueuePolicy(max_queue_size=9, longest_wait_us=70)
    ),
    "instance_groups": (InstanceGroup(count=2), InstanceGroup(kind="KIND_GPU")),
    "parameters": {"THREADS": "2", "BANK": "größe"},
    "versions": (3, 7),
    "default_model_filename": "stage.py",
}
ENSEMBLE: dict[str, Any] = {
    "name": "line",
    "platform": "ensemble",
    "max_batch_size": 8,
    "inputs": (X,),
    "outputs": (Y,),
    "ensemble_steps": (
        EnsembleStep(model="first", inputs={"A": "X"}, outputs={"B": "middle"}),
        EnsembleStep(model="second", version=3, inputs={"C": "middle", "D": "X"}, outputs={"E": "Y"}),
    ),
}
WAITING = "max_queue_size: 9 default_timeout_microseconds: 70 allow_timeout_override: true"
WARM_INPUT = 'inputs { key: "X" value { dims: 1 data_type: TYPE_FP32 zero_data: true } }'
PBTXT = """
name: "stage" backend: "python" max_batch_size: 8
input { name: "X" data_type: TYPE_FP32 dims: [ 3, -1 ] } output { name: "Y" data_type: TYPE_BOOL dims: 1 }
"""


@pytest.mark.parametrize(
    "values",
    [
        STAGE,
        ENSEMBLE,
        {**STAGE, "dynamic_batching": None},
        {**STAGE, "dynamic_batching": DynamicBatching()},
        {**STAGE, "versions": ()},
    ],
)
def test_survives_the_way_through_pbtxt(values: dict[str, Any]) -> None:
    config = ModelConfig(**values)
    assert ModelConfig.from_pbtxt(config.to_pbtxt()) == config
    assert config.to_pbtxt() == ModelConfig(**values).to_pbtxt()


def test_says_to_triton_what_was_meant() -> None:
    stage = text_format.Parse(ModelConfig(**STAGE).to_pbtxt(), Message())
    expected = text_format.Parse(
        """
        name: "stage" backend: "python" max_batch_size: 8 default_model_filename: "stage.py"
        input { name: "X" data_type: TYPE_FP32 dims: [ 3, -1 ] }
        input { name: "FILE" data_type: TYPE_STRING dims: 1 optional: true allow_ragged_batch: true }
        output { name: "Y" data_type: TYPE_BOOL dims: 1 }
        dynamic_batching {
          max_queue_delay_microseconds: 500
          default_queue_policy {
            timeout_action: REJECT
            default_timeout_microseconds: 70
            allow_timeout_override: true
            max_queue_size: 9
          }
        }
        instance_group { count: 2 kind: KIND_CPU }
        instance_group { count: 1 kind: KIND_GPU }
        parameters { key: "THREADS" value { string_value: "2" } }
        parameters { key: "BANK" value { string_value: "größe" } }
        version_policy { specific { versions: [ 3, 7 ] } }
        """,
        Message(),
    )
    assert stage == expected


def test_joins_the_steps_of_an_ensemble() -> None:
    line = text_format.Parse(ModelConfig(**ENSEMBLE).to_pbtxt(), Message())
    expected = text_format.Parse(
        """
        name: "line" platform: "ensemble" max_batch_size: 8
        input { name: "X" data_type: TYPE_FP32 dims: [ 3, -1 ] }
        output { name: "Y" data_type: TYPE_BOOL dims: 1 }
        ensemble_scheduling {
          step {
            model_name: "first" model_version: -1
            input_map { key: "A" value: "X" } output_map { key: "B" value: "middle" }
          }
          step {
            model_name: "second" model_version: 3
            input_map { key: "C" value: "middle" } input_map { key: "D" value: "X" }
            output_map { key: "E" value: "Y" }
          }
        }
        """,
        Message(),
    )
    assert line == expected


@pytest.mark.parametrize("path", HAND_WRITTEN, ids=lambda path: path.parent.name)
def test_holds_every_hand_written_configuration(path: Path) -> None:
    text = path.read_text()
    config = ModelConfig.from_pbtxt(text)
    assert config.name == path.parent.name
    assert text_format.Parse(config.to_pbtxt(), Message()) == text_format.Parse(text, Message())


def test_the_hand_written_configurations_are_found() -> None:
    assert HAND_WRITTEN


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ("version_policy { latest { num_versions: 2 } }", "version_policy"),
        ("version_policy { }", "version_policy"),
        ("model_transaction_policy { decoupled: true }", "model_transaction_policy"),
        ("response_cache { enable: true }", "response_cache"),
        ("dynamic_batching { preserve_ordering: true }", "dynamic_batching"),
        (
            f"dynamic_batching {{ default_queue_policy {{ {WAITING} timeout_action: DELAY }} }}",
            "dynamic_batching",
        ),
        ("instance_group { count: 1 kind: KIND_CPU passive: true }", "instance_group"),
        ("sequence_batching { }", "sequence_batching"),
        ('output { name: "Z" data_type: TYPE_BOOL dims: 1 label_filename: "l" }', "output"),
        ('model_warmup { name: "w" ' + WARM_INPUT + " }", "model_warmup"),
        ("dynamic_batching { preferred_batch_size: 4 }", "dynamic_batching"),
        ("instance_group { count: 1 kind: KIND_GPU gpus: 0 }", "instance_group"),
        ("ensemble_scheduling { }", "ensemble_scheduling"),
    ],
)
def test_what_it_cannot_keep_is_refused_by_name(more: str, field: str) -> None:
    with pytest.raises(ArtefactError, match=rf"'stage' sets what Flawline cannot keep, in {field};"):
        ModelConfig.from_pbtxt(PBTXT + more)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PBTXT + "nix: 1", r"no model configuration .*\"nix\""),
        (PBTXT.replace('backend: "python"', 'platform: "tensorrt_plan"'), "give either a backend"),
        (PBTXT.replace("TYPE_BOOL", "TYPE_INVALID"), r"outputs\.0\.dtype: "),
        (PBTXT.replace("3, -1", "3, 0"), r"inputs\.0\.dims\.1: a dimension is .* not 0"),
        (PBTXT + "max_batch_size: -1", "no model configuration"),
        (PBTXT.replace("8", "-1"), "max_batch_size: "),
        (PBTXT.replace("python", ""), "give either a backend"),
        (PBTXT + 'output { name: "Z" data_type: TYPE_BOOL dims: 1 reshape { } }', "in output;"),
        (PBTXT + 'output { name: "Y" data_type: TYPE_BOOL dims: 1 }', "outputs name Y more than once"),
    ],
)
def test_a_wrong_pbtxt_names_the_field(text: str, said: str) -> None:
    with pytest.raises(ArtefactError, match=said):
        ModelConfig.from_pbtxt(text)


@pytest.mark.parametrize(
    ("base", "change", "said"),
    [
        (STAGE, {"name": ""}, "name"),
        (STAGE, {"nix": 1}, "nix"),
        (STAGE, {"inputs": ()}, "inputs\n.*at least one"),
        (STAGE, {"max_batch_size": 0}, "dynamic_batching needs a max_batch_size of at least 1"),
        (STAGE, {"versions": (0,)}, r"versions\.0"),
        (STAGE, {"inputs": (X, X)}, "inputs name X more than once"),
        (STAGE, {"outputs": (Y.model_copy(update={"ragged": True}),)}, "not the outputs Y"),
        (STAGE, {"platform": "ensemble"}, "give either a backend"),
        (ENSEMBLE, {"platform": ""}, "give either a backend"),
        (ENSEMBLE, {"ensemble_steps": ()}, "give either a backend"),
        (ENSEMBLE, {"instance_groups": (InstanceGroup(),)}, "an ensemble has no"),
        (ENSEMBLE, {"ensemble_steps": ENSEMBLE["ensemble_steps"][1:]}, "second takes middle, which no"),
        (ENSEMBLE, {"ensemble_steps": ENSEMBLE["ensemble_steps"][:1]}, "outputs: no step gives Y"),
        (ENSEMBLE, {"ensemble_steps": ENSEMBLE["ensemble_steps"] * 2}, "give Y, middle more than once"),
    ],
)
def test_a_wrong_object_cannot_be_made(base: dict[str, Any], change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ModelConfig(**{**base, **change})


def test_parts_check_themselves() -> None:
    with pytest.raises(ValidationError, match="version"):
        EnsembleStep(model="m", inputs={}, outputs={}, version=0)


def test_objects_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ModelConfig(**STAGE).name = "other"
