"""What AWS says when it says no: an error with its code and status, in each service's dialect."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from werkzeug.exceptions import HTTPException

#: The statuses of EC2's server-side errors and the like; everything else is 400.
STATUSES = {
    "DryRunOperation": 412,
    "InsufficientInstanceCapacity": 500,
    "InternalError": 500,
    "InternalFailure": 500,
    "RequestLimitExceeded": 503,
    "ServiceUnavailable": 503,
    "SlowDown": 503,
    "Throttling": 400,
    "Unavailable": 503,
    "UnauthorizedOperation": 403,
}


class Refusal(HTTPException):
    """An error of EC2, raised inside moto, that keeps its status (moto's own are always 400)."""

    def __init__(self, code: str, message: str, status: int = 0) -> None:
        super().__init__()
        self.error = code
        self.message = message
        self.code = status or STATUSES.get(code, 400)
        self.description = error_body("ec2", code, message)

    def get_headers(self, *args: Any, **kwargs: Any) -> list[tuple[str, str]]:
        return [("Content-Type", "text/xml")]


def error_body(service: str, code: str, message: str) -> str:
    """The body of an error, as the service's protocol has it."""
    if service in ("ssm", "servicequotas"):
        return json.dumps({"__type": code, "message": message})
    inner = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
    if service == "ec2":
        errors = f"<Errors><Error>{inner}</Error></Errors>"
        return f"<Response>{errors}<RequestID>emulated</RequestID></Response>"
    if service == "s3":
        return f"<Error>{inner}<RequestId>emulated</RequestId></Error>"
    error = f"<Error><Type>Sender</Type>{inner}</Error>"
    return f"<ErrorResponse>{error}<RequestId>emulated</RequestId></ErrorResponse>"
