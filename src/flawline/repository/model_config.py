"""Triton's model configuration as typed objects, to and from config.pbtxt."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from google.protobuf import text_format
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from tritonclient.grpc.model_config_pb2 import DataType, ModelInstanceGroup, ModelQueuePolicy
from tritonclient.grpc.model_config_pb2 import ModelConfig as Message

from flawline.errors import ArtefactError

Values = TypeVar("Values", bound=tuple[object, ...])

DType = Literal[
    "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8", "TYPE_INT16",
    "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_BF16", "TYPE_STRING",
]  # fmt: skip
"""Data types as config.pbtxt names them; clients call TYPE_STRING BYTES and leave out TYPE_ of the others."""

Kind = Literal["KIND_AUTO", "KIND_CPU", "KIND_GPU", "KIND_MODEL"]


def _dimension(value: int) -> int:
    if value < 1 and value != -1:
        msg = f"a dimension is a positive size, or -1 for any, not {value}"
        raise ValueError(msg)
    return value


def _not_empty(values: Values) -> Values:
    if not values:
        msg = "give at least one"
        raise ValueError(msg)
    return values


Name = Annotated[str, Field(min_length=1)]
Dims = Annotated[tuple[Annotated[int, AfterValidator(_dimension)], ...], AfterValidator(_not_empty)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Tensor(_Frozen):
    """An input or output. `dims` leave out the batch; -1 is any size.

    `optional` inputs may be left out of a request. Requests whose `ragged` inputs differ in shape are batched
    nevertheless, and reach a Python stage as they were sent.
    """

    name: Name
    dtype: DType
    dims: Dims
    optional: bool = False
    ragged: bool = False


Tensors = Annotated[tuple[Tensor, ...], AfterValidator(_not_empty)]


class QueuePolicy(_Frozen):
    """At most `max_queue_size` requests wait; more are refused, and so is one that waits longer than it may.

    That is `longest_wait_us` microseconds, or the request's own `timeout` where that is less. Both are answered by
    UNAVAILABLE.
    """

    max_queue_size: Count
    longest_wait_us: Count


class DynamicBatching(_Frozen):
    """Joins waiting requests into one execution, after `max_queue_delay_us` microseconds at most."""

    max_queue_delay_us: Natural = 0
    queue: QueuePolicy | None = None
    """None lets any number of requests wait, for ever."""


class InstanceGroup(_Frozen):
    """How many copies run, and where."""

    count: Count = 1
    kind: Kind = "KIND_CPU"


class EnsembleStep(_Frozen):
    """One stage of an ensemble. `inputs` and `outputs` lead from the stage's tensor names to the ensemble's.

    A stage computes only the outputs named here. `version` -1 is the latest that is loaded.
    """

    model: Name
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    version: Count | Literal[-1] = -1


class ModelConfig(_Frozen):
    """What Triton is told of one model: one that a `backend` runs, or `platform` "ensemble" with its steps.

    `max_batch_size` 0 means that tensors have no batch dimension. `versions` are those to load; empty leaves
    Triton's default, the highest. Wrong values raise pydantic's ValidationError, which names the field.
    """

    name: Name
    inputs: Tensors
    outputs: Tensors
    max_batch_size: Natural
    backend: str = ""
    platform: str = ""
    """"ensemble", or what a backend that offers several platforms is to use."""
    ensemble_steps: tuple[EnsembleStep, ...] = ()
    dynamic_batching: DynamicBatching | None = None
    instance_groups: tuple[InstanceGroup, ...] = ()
    parameters: Mapping[str, str] = {}
    versions: tuple[Count, ...] = ()
    default_model_filename: str = ""
    """File in the version folder; empty is the backend's own choice, such as model.py."""

    @model_validator(mode="after")
    def _has_one_way_to_run(self) -> Self:
        ensemble = self.platform == "ensemble"
        if ensemble == bool(self.backend) or ensemble != bool(self.ensemble_steps):
            msg = "give either a backend, or platform 'ensemble' and ensemble_steps"
            raise ValueError(msg)
        if ensemble and (self.dynamic_batching or self.instance_groups):
            msg = "an ensemble has no dynamic_batching or instance_groups; give them to its stages"
            raise ValueError(msg)
        if self.dynamic_batching and not self.max_batch_size:
            msg = "dynamic_batching needs a max_batch_size of at least 1"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _tensors_are_sound(self) -> Self:
        for field, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            if repeated := _repeated(tensor.name for tensor in tensors):
                msg = f"{field} name {', '.join(repeated)} more than once"
                raise ValueError(msg)
        if special := [tensor.name for tensor in self.outputs if tensor.optional or tensor.ragged]:
            msg = f"only inputs can be optional or ragged, not the outputs {', '.join(special)}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _steps_are_joined(self) -> Self:
        if not self.ensemble_steps:
            return self
        sent = {tensor.name for tensor in self.inputs}
        made = [name for step in self.ensemble_steps for name in step.outputs.values()]
        if repeated := _repeated([*sent, *made]):
            msg = f"ensemble_steps give {', '.join(repeated)} more than once; each tensor has one source"
            raise ValueError(msg)
        known = sent.union(made)
        for step in self.ensemble_steps:
            if missing := sorted(set(step.inputs.values()) - known):
                msg = f"ensemble_steps: {step.model} takes {', '.join(missing)}, which no input or step gives"
                raise ValueError(msg)
        if missing := sorted({tensor.name for tensor in self.outputs}.difference(made)):
            msg = f"outputs: no step gives {', '.join(missing)}"
            raise ValueError(msg)
        return self

    def to_pbtxt(self) -> str:
        """Content of config.pbtxt; the same object always gives the same text."""
        text: str = text_format.MessageToString(_to_message(self), as_utf8=True)
        return text

    @classmethod
    def from_pbtxt(cls, text: str) -> "ModelConfig":
        """Read a config.pbtxt.

        Raises:
            ArtefactError: it is no model configuration, a value is wrong, or it sets something that these
                objects cannot hold; names the field.

        """
        try:
            message = text_format.Parse(text, Message())
            config = _from_message(message)
        except text_format.ParseError as error:
            msg = f"this is no model configuration (line:column {error}); correct the config.pbtxt"
            raise ArtefactError(msg) from error
        except ValidationError as error:
            wrong = "; ".join(_describe(detail["loc"], detail["msg"]) for detail in error.errors())
            msg = f"the configuration of model '{message.name}' is wrong: {wrong}"
            raise ArtefactError(msg) from error
        if lost := _differences(message, _to_message(config)):
            msg = (
                f"the configuration of model '{message.name}' sets what Flawline cannot keep, in "
                f"{', '.join(lost)}; remove it there"
            )
            raise ArtefactError(msg)
        return config


def _repeated(names: Iterable[str]) -> list[str]:
    seen = list(names)
    return sorted({name for name in seen if seen.count(name) > 1})


def _describe(location: tuple[int | str, ...], problem: str) -> str:
    problem = problem.removeprefix("Value error, ")
    return f"{'.'.join(map(str, location))}: {problem}" if location else problem


def _differences(before: Message, after: Message) -> list[str]:
    """Names of the fields of config.pbtxt in which two messages differ."""
    fields = before.DESCRIPTOR.fields
    return [field.name for field in fields if _value(before, field) != _value(after, field)]


def _value(message: Message, field: Any) -> Any:  # noqa: ANN401  any value that a protobuf field holds
    return getattr(message, field.name), field.has_presence and message.HasField(field.name)


def _to_message(config: ModelConfig) -> Message:
    message = Message(
        name=config.name,
        backend=config.backend,
        platform=config.platform,
        max_batch_size=config.max_batch_size,
        default_model_filename=config.default_model_filename,
    )
    for tensor in config.inputs:
        message.input.add(
            name=tensor.name,
            data_type=DataType.Value(tensor.dtype),
            dims=tensor.dims,
            optional=tensor.optional,
            allow_ragged_batch=tensor.ragged,
        )
    for tensor in config.outputs:
        message.output.add(name=tensor.name, data_type=DataType.Value(tensor.dtype), dims=tensor.dims)
    for group in config.instance_groups:
        kind = ModelInstanceGroup.Kind.Value(group.kind)
        message.instance_group.add(count=group.count, kind=kind)
    for key, value in config.parameters.items():
        message.parameters[key].string_value = value
    for step in config.ensemble_steps:
        message.ensemble_scheduling.step.add(
            model_name=step.model, model_version=step.version, input_map=step.inputs, output_map=step.outputs
        )
    if config.versions:
        message.version_policy.specific.versions.extend(config.versions)
    if config.dynamic_batching is not None:
        # Even zero makes the message present.
        message.dynamic_batching.max_queue_delay_microseconds = config.dynamic_batching.max_queue_delay_us
        if (queue := config.dynamic_batching.queue) is not None:
            policy = message.dynamic_batching.default_queue_policy
            policy.timeout_action = ModelQueuePolicy.TimeoutAction.REJECT
            policy.default_timeout_microseconds = queue.longest_wait_us
            policy.allow_timeout_override = True
            policy.max_queue_size = queue.max_queue_size
    return message


def _from_message(message: Message) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "name": message.name,
            "backend": message.backend,
            "platform": message.platform,
            "max_batch_size": message.max_batch_size,
            "default_model_filename": message.default_model_filename,
            "inputs": tuple(
                {**_tensor(entry), "optional": entry.optional, "ragged": entry.allow_ragged_batch}
                for entry in message.input
            ),
            "outputs": tuple(_tensor(entry) for entry in message.output),
            "instance_groups": tuple(
                {
                    "count": group.count,
                    "kind": ModelInstanceGroup.Kind.Name(group.kind),
                }
                for group in message.instance_group
            ),
            "parameters": {key: value.string_value for key, value in message.parameters.items()},
            "ensemble_steps": tuple(
                {
                    "model": step.model_name,
                    "version": step.model_version,
                    "inputs": dict(step.input_map),
                    "outputs": dict(step.output_map),
                }
                for step in message.ensemble_scheduling.step
            ),
            "versions": tuple(message.version_policy.specific.versions),
            "dynamic_batching": _batching(message) if message.HasField("dynamic_batching") else None,
        }
    )


def _tensor(entry: Any) -> dict[str, Any]:  # noqa: ANN401  protobuf's ModelInput or ModelOutput
    return {"name": entry.name, "dtype": DataType.Name(entry.data_type), "dims": tuple(entry.dims)}


def _batching(message: Message) -> dict[str, Any]:
    batching = message.dynamic_batching
    policy = batching.default_queue_policy
    queue = {
        "max_queue_size": policy.max_queue_size,
        "longest_wait_us": policy.default_timeout_microseconds,
    }
    return {
        "max_queue_delay_us": batching.max_queue_delay_microseconds,
        "queue": queue if batching.HasField("default_queue_policy") else None,
    }


CHANGEABLE = ("instance_group", "dynamic_batching", "parameters")
"""Fields of a shared stage's configuration that are an operator's to set: how many, how they wait, with what."""


def changed(text: str, changes: str) -> str:
    """Lay an operator's changes over the configuration of a shared stage.

    Args:
        text: the config.pbtxt.
        changes: fields of CHANGEABLE in the same format. `instance_group` replaces that of the stage, of the others
            each value does that is named.

    Raises:
        ArtefactError: `changes` is no model configuration, or sets what is not an operator's to set.

    """
    config, wanted = text_format.Parse(text, Message()), Message()
    try:
        text_format.Parse(changes, wanted)
    except text_format.ParseError as error:
        msg = f"this is no model configuration (line:column {error})"
        raise ArtefactError(msg) from error
    named = {field.name for field, _ in wanted.ListFields()}
    if others := sorted(named.difference(CHANGEABLE)):
        msg = f"{', '.join(others)} cannot be changed, but {', '.join(CHANGEABLE)} can"
        raise ArtefactError(msg)
    if unknown := sorted(wanted.parameters.keys() - config.parameters.keys()):
        msg = f"there is no parameter {', '.join(unknown)}; there are {', '.join(sorted(config.parameters))}"
        raise ArtefactError(msg)
    if wanted.instance_group:
        config.ClearField("instance_group")
    config.MergeFrom(wanted)
    return str(text_format.MessageToString(config))
