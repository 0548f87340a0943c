"""prepare.engine: where data stages run, never what comes out."""

from typing import Annotated, Literal

from pydantic import Field

from gpt.params.types import NonNegativeInt, PositiveInt, Section


class Engine(Section):
    kind: Literal["local", "ray", "slurm"]
    "local: processes of this machine; ray: the cluster of RAY_ADDRESS, else one of this machine; slurm: job arrays."
    workers: NonNegativeInt
    "Tasks at a time; 0: as many as cores that may be used here, of Slurm as many as it gives."
    memory_gb: PositiveInt
    "Memory of a task in GiB: what slurm and ray reserve, and what finding duplicates may use. Not enforced by local."
    slurm_partition: str
    "Without effect elsewhere, as the next one."
    slurm_time: Annotated[str, Field(pattern=r"^(\d+-)?\d{1,2}:\d\d:\d\d$")]
    "Longest time of a task, as in 20:00:00."
