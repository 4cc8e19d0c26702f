"""HTTP basic authentication, as Label Studio's "Basic Auth" of an ML backend sends it."""

import hmac

from flask import Flask, Response, request

from backend.errors import error_response

# Containers probe /health, so it is open. Webhooks come without credentials even where Label Studio's other
# calls carry them: open too, and therefore harmless.
OPEN_ENDPOINTS = frozenset({"operations.health", "label_studio.webhook"})


def require_basic_auth(app: Flask, user: str, password: str) -> None:
    """Refuse every request without these credentials, except those of OPEN_ENDPOINTS."""

    @app.before_request
    def _check() -> Response | None:
        if request.endpoint in OPEN_ENDPOINTS:
            return None
        sent = request.authorization
        sent_user, sent_password = (sent.username or "", sent.password or "") if sent else ("", "")
        # Both are compared, in constant time, so that timing does not tell a right user from a wrong one.
        user_is_right = hmac.compare_digest(sent_user.encode(), user.encode())
        password_is_right = hmac.compare_digest(sent_password.encode(), password.encode())
        if user_is_right and password_is_right:
            return None
        response = error_response(401, "wrong or missing user and password; see EBSEG_BASIC_AUTH_USER")
        response.headers["WWW-Authenticate"] = 'Basic realm="ebseg"'
        return response
