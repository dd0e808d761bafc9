"""From an address to a running service, for the master and the workers alike."""

from __future__ import annotations

import hmac
import logging
import re

from dayfly import bootstrap
from dayfly.clock import Clock, Entropy
from dayfly.environment.order import Order
from dayfly.environment.report import read
from dayfly.errors import CommandError, ProvisionError, UnreachableError
from dayfly.model import Access, DismantlePolicy, Instance, MasterConfig, Tag, WorkerConfig
from dayfly.phases import MASTER, Steps, Timeline
from dayfly.runtimes import Runtime
from dayfly.shell.base import CommandResult, Connection, Shell, Target

log = logging.getLogger(__name__)

#: Seconds for one attempt: sshd answers in milliseconds, or drops the connection in silence.
ATTEMPT = 4.0
#: Seconds for an installation: an archive of some 100 kB, and the start of a service.
INSTALL = 60.0
#: Seconds between attempts: the first, the factor, and the most.
BACKOFF = (0.04, 1.4, 1.0)


def target_of(instance: Instance, access: Access, username: str, *, inside: bool = False) -> Target:
    """How to reach an instance that the cluster launched, and how to know it.

    Its host key is signed by the cluster for its role, so a worker cannot pass for the master.

    Args:
        instance: Which one.
        access: The cluster's keys.
        username: The account on it.
        inside: Whether it is another VM of the cluster that wants to reach it.
    """
    return Target(
        name=f"{instance.name} ({instance.id})",
        address=instance.inner_address if inside else instance.address,
        port=instance.ssh_port,
        username=username,
        alias=instance.tags.get(Tag.ROLE, "worker"),
        known_hosts=f"@cert-authority * {access.host_ca_public_key.strip()}\n",
        private_key=access.user_key,
    )


async def reach(
    shell: Shell, target: Target, *, deadline: float, clock: Clock, entropy: Entropy
) -> Connection:
    """Connect to a VM that may still be booting: try until it answers.

    Args:
        shell: How to connect.
        target: Where to.
        deadline: When to give up, in seconds of ``clock.monotonic()``.
        clock: Time.
        entropy: Jitter, so that many waiters do not knock in step.

    Raises:
        UnreachableError: It did not answer in time; the cause is that of the last attempt.
        HostKeyError: It answered with a key that is not its own.
        AccessDeniedError: It refused our key.
    """
    began = clock.monotonic()
    pause, factor, most = BACKOFF
    attempts = 0
    while True:
        attempts += 1
        left = deadline - clock.monotonic()
        try:
            return await shell.connect(target, timeout=max(0.5, min(ATTEMPT, left)))
        except UnreachableError as error:
            if clock.monotonic() + pause >= deadline:
                waited = clock.monotonic() - began
                raise UnreachableError(
                    f"{target.name} did not answer SSH at {target.address}:{target.port} "
                    f"within {waited:.0f} s",
                    cause=f"{error.cause or error.what} (attempt {attempts})",
                    hint="dayfly worker list, then dayfly clean; "
                    "a VM that boots slowly needs a larger start_timeout",
                ) from error
        await clock.sleep(pause * (0.5 + entropy.fraction()))
        pause = min(most, pause * factor)


async def install_master(
    connection: Connection,
    config: MasterConfig,
    package: bootstrap.Package,
    *,
    timeline: Timeline,
    kit: Order | None = None,
    timeout: float = INSTALL,
) -> None:
    """Install and start the master's service; returns when it serves.

    Args:
        connection: To the VM.
        config: For the service.
        package: The dayfly to install.
        timeline: Where it is told what took how long.
        kit: The environment to run it in, where the image has none.
        timeout: Seconds for all of it but the environment.

    Raises:
        EnvironmentFailedError: The environment cannot be had.
        ProvisionError: A step failed; its output is in the cause.
    """
    plan = bootstrap.installation(
        "master",
        config,
        package,
        runtime=Runtime.parse(config.runtime).services,
        mark=f"{config.access.serial} {config.host}:{config.port} {_trace(config)}",
        kit=kit,
        timeout=timeout,
    )
    steps = Steps(timeline, MASTER)
    await _install(connection, plan, config.instance.name, timeout, kit, steps)
    steps.end()


async def install_worker(
    connection: Connection,
    config: WorkerConfig,
    package: bootstrap.Package,
    *,
    timeline: Timeline,
    kit: Order | None = None,
    login: str = "",
    arm: DismantlePolicy | None = None,
    timeout: float = INSTALL,
) -> None:
    """Install and start a worker's agent; returns when it is up.

    Args:
        connection: To the VM.
        config: For the agent.
        package: The dayfly to install.
        timeline: Where it is told what took how long.
        kit: The environment to run it in, where the image has none.
        login: ``user:password`` by which sshd lets in too; empty: by key only.
        arm: Also arm the VM's own deadline (a VM that is not of our launching).
        timeout: Seconds for all of it but the environment.

    Raises:
        EnvironmentFailedError: The environment cannot be had.
        ProvisionError: A step failed; its output is in the cause.
    """
    plan = bootstrap.installation(
        "worker",
        config,
        package,
        runtime=Runtime.parse(config.runtime).services,
        mark=f"{config.instance} {config.master_host}:{config.master_port} {config.processes} "
        f"{config.runtime}",
        kit=kit,
        login=login,
        arm=arm,
        timeout=timeout,
    )
    steps = Steps(timeline, config.instance)
    await _install(connection, plan, config.instance, timeout, kit, steps)


async def install_ahead(connection: Connection, order: Order, steps: Steps) -> None:
    """Install an environment that a service will find there.

    Args:
        connection: To the VM.
        order: The environment.
        steps: Where it is told what took how long.

    Raises:
        CommandError: It took too long.
        UnreachableError: The connection broke.
    """
    plan = bootstrap.ahead(order)
    await connection.run(plan.script, stdin=plan.stdin, timeout=order.deadline, heard=steps.hear)


def _trace(config: MasterConfig) -> str:
    """What tells another password, and nothing of it to whoever lacks the cluster's secret."""
    key, password = config.access.client_secret, config.ssh_password
    return hmac.new(key.encode(), password.encode(), "sha256").hexdigest()[:16]


async def _install(
    connection: Connection,
    plan: bootstrap.Installation,
    name: str,
    timeout: float,
    kit: Order | None,
    steps: Steps,
) -> None:
    limit = timeout + bootstrap.STEPS + (kit.deadline if kit else 0.0)
    log_file = f"/tmp/dayfly/{plan.service}-service.log"  # noqa: S108 - see bootstrap.py
    try:
        result = await connection.run(
            plan.script, stdin=plan.stdin, timeout=limit, heard=steps.hear
        )
    except CommandError as error:
        raise ProvisionError(
            f"the {plan.service} service did not start on {name} within {limit:.0f} s",
            cause=error.cause or error.what,
            hint=f"its log is {log_file} on the VM",
        ) from error
    failed = _FAILED.search(result.stderr)
    step = failed["step"] if failed else ""
    if kit is not None and step in ("", "environment"):
        status, output, errors = result.status, result.stdout, result.stderr
        if output.strip() or status:
            report = read(output, vm=name, environment=kit.name, status=status, errors=errors)
            for note in report.notes:
                log.warning("%s: %s", name, note)
    if result.status != 0:
        raise _refusal(plan.service, name, result, failed)


#: How the script names the step that failed, with its status and its deadline.
_FAILED = re.compile(r"^dayfly-step (?P<step>\w+) (?P<status>\d+) (?P<limit>\d+)$", re.MULTILINE)

#: sudo says so wherever no DNS server knows the VM, and goes on.
_HARMLESS = re.compile(r"^sudo: unable to resolve host.*\n?", re.MULTILINE)

#: What is printed, and what to do about it; then what to do about a step that fails.
_WORDS = {
    r"sudo: |command not found": "the SSH user must be allowed to use sudo "
    "without a password: choose another ssh_username or target_ami",
    r"No space left|Disk quota": "give the VMs a larger volume (ebs_volumes), or clear the disk",
    r"Read-only file system": "choose a target_ami whose /opt, /etc, /var and /tmp can be written "
    "to, or see the kernel's log (dmesg) for errors of the disk",
}
_ADVICE = {
    "turn": "another program installs on this VM: wait for it, then run again",
    "logins": "leave ssh_password out, or choose a target_ami with OpenSSH",
    "service": "its whole log is /tmp/dayfly/{service}-service.log on the VM",
}


def _refusal(
    service: str, name: str, result: CommandResult, failed: re.Match[str] | None
) -> ProvisionError:
    """Which step failed, what it printed, and what to do."""
    said = _FAILED.sub("", _HARMLESS.sub("", result.stderr or result.stdout)).strip()
    how = f"exit status {result.status}"
    what = f"the {service} service could not be installed on {name}"
    advice = ""
    if failed is not None:
        if failed["status"] in ("124", "137"):
            how = f"it did not end within {failed['limit']} s"
        what += f": the step {failed['step']!r} failed"
        advice = _ADVICE.get(failed["step"], "").format(service=service)
    known = (hint for words, hint in _WORDS.items() if re.search(words, said))
    return ProvisionError(
        f"{what} ({how})",
        cause="\n    ".join(said.splitlines()[-20:]) or "it printed nothing",
        hint=next(known, advice) or "what was done is in /tmp/dayfly/bootstrap.log on the VM",
    )
