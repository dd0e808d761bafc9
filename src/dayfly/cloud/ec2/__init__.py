"""Amazon EC2, as a form of the cloud."""

from dayfly.cloud.ec2.cloud import Ec2Cloud

__all__ = ["Ec2Cloud"]
