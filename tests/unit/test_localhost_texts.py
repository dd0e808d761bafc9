"""The embedded VM's small languages: unit files, user-data, records. No process is started."""

from __future__ import annotations

import pytest

from dayfly.cloud.localhost.record import Record
from dayfly.cloud.localhost.units import expand, parse_environment, parse_unit, seconds
from dayfly.cloud.localhost.userdata import argv, parse_user_data
from dayfly.model import Instance, InstanceState

S = InstanceState

UNIT = """
[Unit]
Description=dayfly's own
StartLimitBurst=3
# a comment
; another
[Service]
Type=notify
ExecStart=/bin/sh -c 'exec python3 -P \\
  -m thing ${DAYFLY_ROOT}/x'
Environment=A=1 "B=two words"
Environment=C=3
EnvironmentFile=-/etc/default/thing
WorkingDirectory=/var/lib/thing
Restart=always
RestartSec=1min 500ms
TimeoutStartSec=infinity
TimeoutStopSec=7
StandardOutput=append:/tmp/thing.log
Unknown=passed over

[Install]
WantedBy=multi-user.target
"""


def test_a_unit_file_is_read_as_systemd_reads_it() -> None:
    unit = parse_unit("thing.service", UNIT)
    assert unit.type == "notify"
    assert unit.exec_start == ["/bin/sh", "-c", "exec python3 -P    -m thing ${DAYFLY_ROOT}/x"]
    assert unit.environment == {"A": "1", "B": "two words", "C": "3"}
    assert unit.environment_files == ["-/etc/default/thing"]
    assert unit.working_directory == "/var/lib/thing"
    assert (unit.restart, unit.restart_sec, unit.burst) == ("always", 60.5, 3)
    assert (unit.timeout_start, unit.timeout_stop) == (None, 7.0)
    assert (unit.output, unit.error) == ("append:/tmp/thing.log", "inherit")
    assert unit.wanted_by == ["multi-user.target"]


def test_a_unit_without_anything_to_say_has_systemds_defaults() -> None:
    unit = parse_unit("x.service", "[Service]\nExecStart=true\n")
    assert (unit.type, unit.restart, unit.restart_sec) == ("simple", "no", 0.1)
    assert (unit.timeout_start, unit.timeout_stop, unit.burst) == (90.0, 90.0, 5)
    oneshot = parse_unit("x.service", "[Service]\nType=oneshot\nExecStart=true\n")
    assert oneshot.timeout_start is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[Service]\n", "ExecStart"),
        ("[Service]\nExecStart=a\nExecStart=b\n", "2 found"),
        ("[Service]\nExecStart=a\nType=forking\n", "forking"),
        ("[Service]\nExecStart=a\nRestart=sometimes\n", "sometimes"),
        ("[Service]\nExecStart=a\nRestartSec=soon\n", "soon"),
        ("[Service]\nExecStart\n", "not a unit file's line"),
    ],
)
def test_a_unit_that_systemd_would_refuse_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_unit("x.service", text)


def test_an_empty_value_resets_what_was_said_before() -> None:
    unit = parse_unit("x.service", "[Service]\nExecStart=a\nExecStart=\nExecStart=b\nType=\n")
    assert (unit.exec_start, unit.type) == (["b"], "simple")


@pytest.mark.parametrize(
    ("span", "value"), [("5", 5.0), ("500ms", 0.5), ("1h 2m 3s", 3723.0), ("infinity", None)]
)
def test_time_spans(span: str, value: float | None) -> None:
    assert seconds(span) == value


def test_variables_go_into_a_command_line_as_systemd_puts_them() -> None:
    words = ["${A}/x${NONE}", "$B", "$$A", "a$B", "%%", "$NONE"]
    expanded = expand(words, {"A": "1", "B": "two words"})
    assert expanded == ["1/x", "two", "words", "$A", "a$B", "%"]


def test_an_environment_file_is_read() -> None:
    assert parse_environment("# no\nA=1\n B = 'x y'z \n\n") == {"A": "1", "B": "x yz"}


def test_user_data_is_read_with_strings_and_lists() -> None:
    data = parse_user_data(
        "#cloud-config\n"
        "ssh_authorized_keys: [ssh-ed25519 AAAA]\n"
        "bootcmd:\n- echo a | tee b\n- [systemctl, start, x]\n"
        "write_files:\n- {path: /a, content: b, permissions: '0600', owner: 'root:root'}\n"
        "package_update: true\n"
    )
    assert data.ssh_authorized_keys == ["ssh-ed25519 AAAA"]
    assert [argv(command) for command in data.bootcmd] == [
        ["/bin/sh", "-c", "echo a | tee b"],
        ["systemctl", "start", "x"],
    ]
    assert data.write_files[0].permissions == "0600"
    assert parse_user_data("") == parse_user_data("#cloud-config\n")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("#!/bin/sh\ntrue", "unhandled"),
        ("#cloud-config\na: [", "not YAML"),
        ("#cloud-config\nbootcmd: 3", "bootcmd"),
        ("#cloud-config\nwrite_files: [{path: /a, encoding: b64}]", "encoding"),
    ],
)
def test_user_data_that_is_not_understood_is_told(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_user_data(text)


def record(state: InstanceState, on_poweroff: str = "terminate") -> Record:
    instance = Instance(id="i-1", instance_type="local.1", state=state, tags={}, launched_at=0.0)
    return Record(
        instance=instance,
        on_poweroff="stop" if on_poweroff == "stop" else "terminate",
        token="t",
        asked=1,
    )


def test_an_end_that_was_asked_for_keeps_its_reason() -> None:
    leaving = record(S.RUNNING).leave("stop", "because")
    assert (leaving.state, leaving.instance.state_reason) == (S.STOPPING, "because")
    ended = leaving.end(5.0, "init died")
    assert (ended.state, ended.instance.state_reason) == (S.STOPPED, "because")
    assert ended.ended_at == 0.0


@pytest.mark.parametrize(
    ("on_poweroff", "final"), [("stop", S.STOPPED), ("terminate", S.TERMINATED)]
)
def test_an_accident_ends_a_vm_by_its_shutdown_behaviour(
    on_poweroff: str, final: InstanceState
) -> None:
    ended = record(S.RUNNING, on_poweroff).end(5.0, "init died")
    assert ended.state is final
    assert ended.instance.state_reason == "Server.InternalError: init died"


def test_terminate_overtakes_stop_and_never_the_other_way() -> None:
    assert record(S.STOPPING).leave("terminate", "r").state is S.SHUTTING_DOWN
    assert record(S.SHUTTING_DOWN).leave("stop", "r").state is S.SHUTTING_DOWN
    assert record(S.TERMINATED).leave("stop", "r").state is S.TERMINATED
    assert record(S.TERMINATED).end(9.0) == record(S.TERMINATED)
    assert record(S.STOPPED).leave("stop", "r").state is S.STOPPED
