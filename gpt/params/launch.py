"""launch: where training runs, never what it computes."""

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from gpt.params.types import NonNegativeInt, PositiveInt, Section


def _switch_or_auto(value: Any) -> bool | Literal["auto"]:
    # pydantic would report a fault for each half of the union, and its Literal takes 1 for true.
    if value is True or value is False or value == "auto":
        return value
    raise ValueError("must be true, false or auto")


class Launch(Section):
    num_processes: PositiveInt
    "Per machine."
    num_machines: PositiveInt
    "Each starts `gpt pretrain` itself."
    strategy: Literal["ddp", "fsdp"]
    compile: Annotated[bool | Literal["auto"], PlainValidator(_switch_or_auto)]
    "Compile the transformer blocks; auto: if the steps that are left can repay the time that it takes, decided once a run."
    activation_checkpointing: bool
    "Compute activations again in backward instead of keeping them: less memory, a third more time."
    micro_batch_size: PositiveInt
    "Sequences per process per forward pass."
    max_restarts: NonNegativeInt
    "How often several processes are started again, from the last checkpoint, after one of them has died."
    timeout_seconds: PositiveInt
    "How long a process waits for the others before it takes them for lost."
    trackers: Annotated[tuple[Literal["tensorboard", "wandb"], ...], Field(strict=False)]
    "Where curves and samples go besides MLflow."
