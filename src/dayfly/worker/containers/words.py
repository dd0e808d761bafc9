"""What engines say when something fails, in our words: pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from dayfly.errors import EnvironmentFailedError
from dayfly.model import Registry
from dayfly.runtimes import registry_of


class Meaning(NamedTuple):
    """What an engine's text means.

    Attributes:
        kind: Of :class:`EnvironmentFailedError`: what a registry says, it says to every VM.
        what: With ``{image}``, ``{registry}``, ``{user}``.
        hint: Likewise.
    """

    pattern: str
    kind: str
    what: str
    hint: str


# The first that is found holds. Sources: the error codes of the OCI distribution specification,
# and what Docker 20 to 28 and Podman 4 and 5 make of them.
_PULL: Final = (
    Meaning(
        r"no space left on device",
        "disk",
        "the disk has no room for the container image {image}",
        "give the workers a larger one by ebs_volumes, or use a smaller image",
    ),
    Meaning(
        r"toomanyrequests|rate limit",
        "network",
        "the registry {registry} gives {image} to {user} no more for now",
        "it lets more through with a login: docker_user and docker_password",
    ),
    Meaning(
        r"no matching manifest|no image found in (image index|manifest list)"
        r"|does not match the specified platform",
        "package",
        "the container image {image} is not made for the processors of this worker",
        "build it for them too (docker buildx build --platform), or choose another "
        "worker_instance_type",
    ),
    Meaning(
        r"manifest unknown|manifest for \S+ not found|name unknown|not found: manifest|: not found"
        r"|NotFound|status 404|StatusCode: 404|no such image",
        "package",
        "there is no container image {image} in the registry {registry}",
        "see whether the name and the tag in runtime are right: docker manifest inspect {image}",
    ),
    Meaning(
        r"unauthorized|authentication required|no basic auth credentials|denied"
        r"|invalid username/password|incorrect username or password|forbidden",
        "package",
        "the registry {registry} does not give the container image {image} to {user}",
        "see whether the name in runtime is right, and docker_server, docker_user and "
        "docker_password of someone who may read it",
    ),
    Meaning(
        r"x509|certificate",
        "network",
        "the registry {registry} shows a certificate that the worker does not trust",
        "give the workers its CA by a target_ami of your own",
    ),
    Meaning(
        r"dial tcp|no such host|i/o timeout|connection refused|deadline exceeded|unreachable"
        r"|still running|TLS handshake timeout|pinging container registry|Client\.Timeout"
        r"|connection reset|unexpected EOF|server misbehaving",
        "network",
        "the registry {registry} of the container image {image} cannot be reached",
        "see whether the workers' subnet has a way there",
    ),
)
_LOGIN: Final = (
    Meaning(
        r"unauthorized|denied|incorrect|invalid username|forbidden|status 401|401 Unauthorized",
        "package",
        "the registry {registry} refuses the login of {user}, for the container image {image}",
        "see whether docker_user and docker_password are right for docker_server: "
        "docker login --username NAME {registry}",
    ),
    *(each for each in _PULL if each.kind == "network"),
)
_OTHER: Final = Meaning(
    "",
    "broken",
    "the container image {image} could not be had from the registry {registry}",
    "docker pull {image} on a machine of your own tells more",
)


def no_login(image: str, registry: Registry, said: str, vm: str) -> EnvironmentFailedError:
    """A login failed."""
    return _failure(_LOGIN, image, registry, said, vm, "login")


def lost_login(image: str, registry: Registry, said: str, vm: str) -> EnvironmentFailedError:
    """A pull failed for want of the login that the job was submitted with."""
    return EnvironmentFailedError(
        f"the login for the registry {registry_of(image) or registry.server} is lost, and "
        f"the container image {image} cannot be pulled without it",
        stage="image",
        kind="broken",  # a VM that was installed before has it
        package=image,
        vm=vm,
        cause=f"the master was started anew before it had installed this worker; {said}",
        hint="dayfly clean, then run the program again: it says the login again",
    )


def no_image(image: str, registry: Registry, said: str, vm: str) -> EnvironmentFailedError:
    """An image could not be pulled."""
    return _failure(_PULL, image, registry, said, vm, "image")


def _failure(
    meanings: tuple[Meaning, ...], image: str, registry: Registry, said: str, vm: str, stage: str
) -> EnvironmentFailedError:
    found = (each for each in meanings if re.search(each.pattern, said, re.IGNORECASE))
    meaning = next(found, _OTHER)
    names = {
        "image": image,
        "registry": registry_of(image) or registry.server,
        "user": f"the user {registry.user!r}" if registry.user else "anybody (no docker_user)",
    }
    return EnvironmentFailedError(
        meaning.what.format_map(names),
        stage=stage,
        kind=meaning.kind,
        package=image,
        vm=vm,
        cause=said,
        hint=meaning.hint.format_map(names),
    )


# What an engine itself ends with. Source: docker-run(1), podman-run(1), "Exit status".
ENGINE_FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127


def no_container(image: str, status: int | None, said: str) -> tuple[str, str]:
    """Why a container did not begin, and what to do."""
    if re.search(
        r"could not select device driver|nvidia-container|libnvidia|nvidia\.com/gpu|GPU vendor",
        said,
    ):
        hint = (
            "use_gpu needs GPUs (worker_instance_type), and NVIDIA's driver and container toolkit "
            "(target_ami; the AWS Deep Learning Base AMI has both)"
        )
        return f"the worker cannot give its GPUs to a container of {image}", hint
    if status == NOT_FOUND or re.search(r"executable file .*not found", said):
        return (
            f"the container image {image} has no python3 on its PATH",
            "install Python in the image; dayfly runs python3 in it",
        )
    if re.search(r"exec format error", said, re.IGNORECASE):
        return (
            f"python3 of the container image {image} cannot be executed",
            "see whether the image is made for the processors of this worker",
        )
    if status in (ENGINE_FAILED, NOT_EXECUTABLE):
        return f"the container engine cannot run a container of {image}", ""
    if status is None:
        return f"a container of {image} did not begin", ""
    return f"the container of {image} ended by itself, with exit status {status}", ""
