"""What botocore raises, in our words: mapped once, here.

Nothing of botocore is imported before it has raised something.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from dayfly.errors import ApiError, CloudError, ConfigError, DayflyError, DeniedError

#: The code of parameters that botocore refuses before it asks anybody.
NEVER_SENT: Final = "ParamValidation"

_DENIED: Final = {
    "AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "UnauthorizedAccess",
    "403", "Forbidden",  # the answer to a HEAD has no body that could say more
}  # fmt: skip
_EXPIRED: Final = {
    "ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired",
}  # fmt: skip
_UNKNOWN: Final = {
    "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken", "UnrecognizedClientException",
}  # fmt: skip
_UNSIGNED: Final = {
    "SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature",
}  # fmt: skip
_LATE: Final = {"RequestTimeTooSkewed", "RequestInTheFuture"}
#: EC2 also says ``AuthFailure`` of an image that belongs to somebody else.
_AUTH_FAILURE: Final = "validate the provided access credentials"

_GIVE_KEYS: Final = (
    "aws configure, or aws sso login; or give aws.access_key_id and aws.secret_access_key"
)
_LOG_IN_AGAIN: Final = "aws sso login; or renew aws.session_token where the configuration gives it"
_WHO_AM_I: Final = "aws sts get-caller-identity"

_DENIAL: Final = re.compile(
    r"(?:User: (?P<who>\S+) is )?not authorized to perform: (?P<action>[\w-]+:\w+)"
    r"""(?: on resource: ["']?(?P<resource>[^\s"']+)["']?)?"""
    r"(?P<why> because .*?| with an explicit deny.*?)?"
    r"(?:\.? Encoded authorization failure message: (?P<encoded>\S+)|\.?\s*$)",
    re.DOTALL,
)
_ENCODED: Final = re.compile(r"\.?\s*Encoded authorization failure message: (\S+)")


class Denial(msgspec.Struct, frozen=True, kw_only=True):
    """What AWS says of a permission that lacks; what it does not say is empty.

    Attributes:
        action: Such as ``ec2:RunInstances``.
        resource: Its ARN.
        who: The caller's ARN.
        why: ``because no identity-based policy allows ...``.
        encoded: For ``sts:DecodeAuthorizationMessage``.
    """

    action: str = ""
    resource: str = ""
    who: str = ""
    why: str = ""
    encoded: str = ""


def denial_of(error: DeniedError) -> Denial:
    """What AWS said when it denied this."""
    response = getattr(error.__cause__, "response", {})
    return read_denial(response.get("Error", {}).get("Message", ""))


def read_denial(message: str) -> Denial:
    """Take AWS's message of a denial apart."""
    encoded = _ENCODED.search(message)
    said = _DENIAL.search(message)
    parts = {name: text.strip() for name, text in said.groupdict("").items()} if said else {}
    return Denial(**parts | {"encoded": encoded[1] if encoded else ""})


@contextmanager
def in_our_words(what: str) -> Iterator[None]:
    """Raise our own error in place of botocore's.

    Args:
        what: What could not be done, and to what.

    Raises:
        ApiError: AWS answered with an error; its code and status are the error's.
        DeniedError: AWS answered that a permission lacks, see :func:`denial_of`.
        ConfigError: There are no credentials, or they are not valid.
        CloudError: AWS could not be asked, or its answer did not arrive whole.
    """
    try:
        yield
    except DayflyError:
        raise
    except Exception as error:
        ours = _translate(what, error)
        if ours is None:
            raise
        raise ours from error


def _translate(what: str, error: Exception) -> DayflyError | None:
    # Whoever raised it has imported it.
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith(_FOREIGN)}
    if "ClientError" in names and hasattr(error, "response"):
        return _answered(what, error)
    for kinds, told in _REACTIONS:
        if kinds & names:
            return told(what, error)
    return CloudError(what, cause=_said(error)) if names else None


_FOREIGN: Final = ("botocore.", "aiobotocore.", "aiohttp.")


# -- AWS answered --


def _answered(what: str, error: Any) -> DayflyError:
    response: Any = error.response
    code = str(response.get("Error", {}).get("Code", "")) or "Unknown"
    message = str(response.get("Error", {}).get("Message", "")).strip()
    about = response.get("ResponseMetadata", {})
    status = int(about.get("HTTPStatusCode", 0)) or 400
    evidence = [code, f"HTTP {status}"]
    if about.get("RetryAttempts"):
        evidence.append(f"asked {about['RetryAttempts'] + 1} times")
    if about.get("RequestId"):
        evidence.append(f"request {about['RequestId']}")
    said = f"AWS says: {_ENCODED.sub('', message) or 'nothing more'} ({', '.join(evidence)})"
    if refused := _credentials(code, message):
        cause, hint = refused
        return ConfigError(what, cause=f"{cause}; {said}", hint=hint)
    if code in _DENIED:
        return DeniedError(
            what, code=code, status=status, cause=said, hint=_allow(read_denial(message))
        )
    return ApiError(what, code=code, status=status, cause=said)


def _credentials(code: str, message: str) -> tuple[str, str] | None:
    """Cause and next command, where it is the credentials that AWS does not take."""
    if code in _EXPIRED:
        return "the credentials have expired, or this machine's clock is wrong", _LOG_IN_AGAIN
    skewed = "Signature expired" in message or "Signature not yet current" in message
    if code in _LATE or (code in _UNSIGNED and skewed):
        return "this machine's clock is wrong", "timedatectl"
    if code in _UNSIGNED:
        return "the secret does not belong to the access key", _WHO_AM_I
    if code in _UNKNOWN:
        return "there is no such access key, or the region is not enabled for it", _WHO_AM_I
    if code == "AuthFailure" and _AUTH_FAILURE in message:
        return "the credentials are not valid, or not in this region", _WHO_AM_I
    return None


def _allow(denial: Denial) -> str:
    if not denial.action:
        return "dayfly doctor"
    resource = denial.resource or "*"
    if "explicit deny" in denial.why:
        return f"have the deny of {denial.action} on {resource} taken back; dayfly doctor"
    return f"allow {denial.action} on {resource}; dayfly doctor prints the statement"


# -- AWS could not be asked --


def _said(error: Exception) -> str:
    return str(error).strip() or type(error).__name__


def _host(error: Exception) -> str:
    url = str(getattr(error, "kwargs", {}).get("endpoint_url", ""))
    return urlsplit(url).netloc or "AWS"


def _look(error: Exception) -> str:
    url = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", "")))
    return f"curl -sI {url.scheme}://{url.netloc}" if url.netloc else _WHO_AM_I


def _no_credentials(what: str, error: Exception) -> DayflyError:
    return ConfigError(what, cause=f"no credentials were found: {_said(error)}", hint=_GIVE_KEYS)


def _no_login(what: str, error: Exception) -> DayflyError:
    return ConfigError(
        what, cause=f"the credentials could not be had: {_said(error)}", hint=_LOG_IN_AGAIN
    )


def _no_profile(what: str, error: Exception) -> DayflyError:
    return ConfigError(what, cause=_said(error), hint="aws configure list-profiles")


def _no_configuration(what: str, error: Exception) -> DayflyError:
    return ConfigError(
        what,
        cause=f"the configuration of AWS's tools is not usable: {_said(error)}",
        hint="aws configure list",
    )


def _no_region(what: str, error: Exception) -> DayflyError:
    return ConfigError(what, cause=_said(error), hint="give aws.region, such as us-east-1")


def _never_sent(what: str, error: Exception) -> DayflyError:
    return ApiError(what, code=NEVER_SENT, cause=_said(error))


def _slow(what: str, error: Exception) -> DayflyError:
    return CloudError(
        what, cause=f"{_host(error)} was asked, and did not answer in time", hint=_look(error)
    )


def _no_certificate(what: str, error: Exception) -> DayflyError:
    return CloudError(
        what,
        cause=f"the certificate of {_host(error)} was not accepted, most often since a proxy "
        f"puts its own in the place: {_said(error)}",
        hint="export AWS_CA_BUNDLE=<the proxy's certificate>",
    )


def _no_proxy(what: str, error: Exception) -> DayflyError:
    return CloudError(what, cause=_said(error), hint="env | grep -i proxy")


def _no_way(what: str, error: Exception) -> DayflyError:
    inner = getattr(error, "kwargs", {}).get("error", "")
    return CloudError(
        what,
        cause=f"{_host(error)} could not be reached: no network or no route from here, or the "
        f"region in its name is none of AWS's{f' ({inner})' if inner else ''}",
        hint=_look(error),
    )


def _broken(what: str, error: Exception) -> DayflyError:
    return CloudError(what, cause=f"the connection broke: {_said(error)}", hint=_look(error))


#: By the names of botocore's exceptions and of their bases; the first that fits.
_REACTIONS: Final = (
    ({"NoCredentialsError", "PartialCredentialsError"}, _no_credentials),
    (
        {"SSOError", "TokenRetrievalError", "CredentialRetrievalError", "NoAuthTokenError",
         "RefreshWithMFAUnsupportedError", "UnknownCredentialError"},
        _no_login,
    ),
    ({"ProfileNotFound"}, _no_profile),
    ({"NoRegionError", "InvalidRegionError", "UnknownRegionError"}, _no_region),
    (
        {"ConfigNotFound", "ConfigParseError", "InvalidConfigError", "InfiniteLoopConfigError",
         "InvalidRetryModeError", "InvalidMaxRetryAttemptsError"},
        _no_configuration,
    ),
    ({"ParamValidationError"}, _never_sent),
    ({"SSLError"}, _no_certificate),
    ({"ProxyConnectionError", "InvalidProxiesConfigError"}, _no_proxy),
    ({"ReadTimeoutError"}, _slow),
    ({"EndpointConnectionError", "ConnectTimeoutError"}, _no_way),
    (
        {"ConnectionClosedError", "ResponseStreamingError", "IncompleteReadError",
         "HTTPClientError", "ClientPayloadError", "ClientConnectionError"},
        _broken,
    ),
)  # fmt: skip
