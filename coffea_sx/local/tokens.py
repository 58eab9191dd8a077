"""Refresh and access tokens: JSON web tokens signed with HMAC-SHA256."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
import uuid
from typing import Any

NOT_YOURS = "Invalid or outdated refresh token"


class TokenError(Exception):
    """A token is missing or not accepted.

    Attributes
    ----------
    status : int
        The HTTP status to answer with.
    body : dict
        What to answer with, ``{"msg": ...}`` or ``{"message": ...}``.
    """

    def __init__(self, status: int, **body: str) -> None:
        super().__init__(next(iter(body.values())))
        self.status = status
        self.body = body


class Tokens:
    """Issues and checks the tokens of one server.

    Parameters
    ----------
    secret : str
        Signs the tokens.
    refresh_id : str
        The ``jti`` of the one refresh token that is accepted.
    access_token_s : float
        Life time of access tokens, in seconds.
    """

    def __init__(self, secret: str, refresh_id: str, access_token_s: float) -> None:
        self._secret = secret.encode()
        self._refresh_id = refresh_id
        self._access_token_s = access_token_s

    @property
    def refresh_token(self) -> str:
        """The token that clients put into their servicex.yaml."""
        return self._encode({"type": "refresh", "jti": self._refresh_id, "sub": "local"})

    def access_token(self) -> str:
        """Return a new access token."""
        now = int(time.time())
        return self._encode(
            {
                "fresh": False,
                "type": "access",
                "jti": str(uuid.uuid4()),
                "sub": "local",
                "iat": now,
                "nbf": now,
                "exp": int(now + self._access_token_s),
            }
        )

    def check_refresh(self, authorization: str | None) -> None:
        """Raise TokenError unless the header holds the refresh token."""
        if authorization is None:
            raise TokenError(401, msg="Missing Authorization Header")
        claims = self._decode(authorization)
        if claims.get("type") != "refresh":
            raise TokenError(422, msg="Only refresh tokens are allowed")
        if claims.get("jti") != self._refresh_id:
            raise TokenError(401, message=NOT_YOURS)

    def check_access(self, authorization: str | None) -> None:
        """Raise TokenError unless the header holds a valid access token."""
        if authorization is None:
            raise TokenError(401, message="Missing Authorization Header")
        if self._decode(authorization).get("type") != "access":
            raise TokenError(422, msg="Only non-refresh tokens are allowed")

    def _encode(self, claims: dict[str, Any]) -> str:
        header = {"alg": "HS256", "typ": "JWT"}
        signed = ".".join(_to_base64(json.dumps(part).encode()) for part in (header, claims))
        return f"{signed}.{_to_base64(self._sign(signed))}"

    def _sign(self, text: str) -> bytes:
        return hmac.new(self._secret, text.encode(), hashlib.sha256).digest()

    def _decode(self, authorization: str) -> dict[str, Any]:
        kind, _, token = authorization.partition(" ")
        if kind != "Bearer" or not token:
            expected = "Expected 'Authorization: Bearer <JWT>'"
            raise TokenError(
                401, msg=f"Missing 'Bearer' type in 'Authorization' header. {expected}"
            )
        parts = token.split(".")
        if len(parts) < 3:
            raise TokenError(422, msg="Not enough segments")
        header = _from_base64(parts[0], "header")
        claims = _from_base64(parts[1], "payload")
        signature = _from_base64(parts[2], "crypto")
        if len(parts) > 3 or not hmac.compare_digest(
            signature, self._sign(f"{parts[0]}.{parts[1]}")
        ):
            raise TokenError(422, msg="Signature verification failed")
        if json.loads(header).get("alg") != "HS256":
            raise TokenError(422, msg="The specified alg value is not allowed")
        decoded: dict[str, Any] = json.loads(claims)
        if "exp" in decoded and decoded["exp"] <= time.time():
            raise TokenError(401, msg="Token has expired")
        return decoded


def _to_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _from_base64(text: str, part: str) -> bytes:
    try:
        return base64.b64decode(
            text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True
        )
    except (binascii.Error, UnicodeEncodeError):
        raise TokenError(422, msg=f"Invalid {part} padding") from None
