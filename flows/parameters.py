"""Define the types of the flows' parameters, which Prefect's form shows and its server validates before a run is made.

Bounds are in `Annotated`, descriptions in the flows' docstrings: anywhere else Prefect loses one of the two. The
patterns only reject wrong values early; the library parses each value again.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from paddock.lifecycle.catalog.entry import GateName
from paddock.lifecycle.promote.approval import MOST_DIFFERENCES
from paddock.planning.profile import ProfileName
from paddock.planning.targets import TARGET_PATTERN

Model = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?([:@][A-Za-z0-9_][A-Za-z0-9._/+-]*){0,2}$",
        max_length=512,
        examples=["org/name", "org/name:Q4_K_M"],
    ),
]
RevisionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._/+-]*$", max_length=255)]
Quantization = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._/-]*$", max_length=255, examples=["auto", "best", "Q4_K_M"])
]
VariantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=56, examples=["Q4_K_M"])]
Target = Annotated[
    str, Field(pattern=f"^{TARGET_PATTERN}$", max_length=48, examples=["this-machine", "rtx-4090", "64GiB"])
]
CatalogName = Annotated[
    str, Field(min_length=1, max_length=1024, examples=["/etc/paddock/catalog.yaml", "s3://bucket/catalog.yaml"])
]
GateBounds = dict[GateName, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
ContextTokens = Annotated[int, Field(ge=256, le=1_048_576)]
Profile = ProfileName
Parallel = Annotated[int, Field(ge=1, le=64)]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]*$|^::[0-9A-Fa-f:.]*$", max_length=255)]
Port = Annotated[int, Field(ge=0, le=65535)]
BytesPerSecond = Annotated[int, Field(ge=1024, le=2**40)]
Hours = Annotated[float, Field(gt=0, le=720, allow_inf_nan=False)]
ByteCount = Annotated[int, Field(ge=0, le=2**60)]
Days = Annotated[float, Field(gt=0, le=365, allow_inf_nan=False)]
Differences = Annotated[str, Field(max_length=MOST_DIFFERENCES)]
