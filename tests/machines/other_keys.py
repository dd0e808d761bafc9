"""A machine whose sshd shows another host key than the one that its user-data brought."""

from __future__ import annotations

from typing import Final

from tests.machines.fixtures import Ec2Box

#: For ``machines.files``. Who came and how far is told on the console.
OTHER_KEY: Final = {
    "/etc/systemd/system/ssh.service.d/50-other-key.conf": (
        "[Service]\n"
        "ExecStartPre=\n"
        "ExecStartPre=/bin/sh -c '[ -e /etc/ssh/other ] ||"
        ' ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/other\'\n'
        "ExecStartPre=/usr/sbin/sshd -t\n"
    ),
    # The first of sshd's settings holds.
    "/etc/ssh/sshd_config.d/00-other-key.conf": "HostKey /etc/ssh/other\n",
    "/etc/systemd/journald.conf.d/50-console.conf": (
        "[Journal]\nForwardToConsole=yes\nMaxLevelConsole=info\n"
    ),
}


def was_entered(box: Ec2Box, instance_id: str) -> bool:
    """Whether anybody has shown such a machine more than who they are not."""
    console = box.machines.console(instance_id)
    assert "[preauth]" in console, "somebody came"
    return "Accepted " in console or "Failed publickey" in console
