"""YAML and environment -> one frozen :class:`Config`; the only reader of raw keys."""

from dayfly.config.load import load
from dayfly.config.sections import (
    AwsSection,
    ComputeSection,
    Config,
    DayflySection,
    Ec2Section,
    LocalhostSection,
    S3Section,
)

__all__ = [
    "AwsSection",
    "ComputeSection",
    "Config",
    "DayflySection",
    "Ec2Section",
    "LocalhostSection",
    "S3Section",
    "load",
]
