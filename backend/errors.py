"""Errors become JSON with the reason, and the reason also stands in the HTTP status line.

Label Studio shows people nothing of an error's body. It shows the text of ``requests``' HTTPError, which
holds the status line's reason phrase: where a backend is added, in the backend's card, in a smart tool's
message, and in its log. So "400 the label config has no <Image> ..." reaches the person who can mend it.
"""

from flask import Flask, Response, jsonify
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from ebseg.errors import Curable, EBSegError

RETRY_AFTER_SECONDS = 10
"""That clients are told to wait where a fault will pass."""

_REASON_LENGTH = 300  # characters, up to 3000 once escaped; proxies limit a status line to a few thousand


def error_response(status: int, reason: str) -> Response:
    """Answer with an error status, ``{"error": reason}``, and the reason in the status line."""
    response = jsonify(error=reason)
    response.status = f"{status} {_reason_phrase(reason)}"
    return response


def install(app: Flask) -> None:
    """Turn every exception of a route into such an answer; never a traceback."""

    @app.errorhandler(Curable)
    def _not_now(error: Curable) -> Response:
        response = error_response(503, str(error))
        response.retry_after = RETRY_AFTER_SECONDS
        return response

    @app.errorhandler(EBSegError)
    def _user_error(error: EBSegError) -> Response:
        return error_response(400, str(error))

    @app.errorhandler(ValidationError)
    def _bad_request(error: ValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return error_response(400, f"not a request of Label Studio: {where or 'body'}: {first['msg']}")

    @app.errorhandler(HTTPException)
    def _http_error(error: HTTPException) -> Response:
        # An exception that nobody foresaw arrives here as a 500; Flask has already logged its traceback.
        return error_response(error.code or 500, error.description or error.name)


def _reason_phrase(reason: str) -> str:
    """Keep what a status line may hold: one line of printable ASCII; other characters are escaped."""
    line = " ".join(reason.split())[:_REASON_LENGTH]
    return "".join(
        letter if " " <= letter <= "~" else letter.encode("unicode_escape").decode() for letter in line
    )
