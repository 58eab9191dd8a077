"""Refresh and access tokens: JSON web tokens signed with HMAC-SHA256."""

from __future__ import annotations

import time
import uuid
from typing import Any

import jwt

ALGORITHM = "HS256"
OUTDATED = "Invalid or outdated refresh token"
# Only the expiry, as on a real server: a clock that was set back makes no token invalid.
_CHECKS: Any = {"verify_nbf": False, "verify_iat": False}


class TokenError(Exception):
    """A token is missing or not accepted.

    Attributes
    ----------
    status : int
        HTTP status of the response.
    body : dict
        JSON of the response, ``{"msg": ...}`` or ``{"message": ...}``.
    """

    def __init__(self, status: int, **body: str) -> None:
        super().__init__(next(iter(body.values())))
        self.status = status
        self.body = body


class Tokens:
    """Issuer of the tokens of one server, which also checks them.

    Parameters
    ----------
    secret : str
        Key of the signatures, 32 bytes or more.
    refresh_id : str
        ``jti`` of the only refresh token that is accepted.
    access_token_s : float
        Life time of access tokens, in seconds.
    """

    def __init__(self, secret: str, refresh_id: str, access_token_s: float) -> None:
        self._secret = secret
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
        """Raise TokenError unless the Authorization header holds the refresh token."""
        if authorization is None:
            raise TokenError(401, msg="Missing Authorization Header")
        claims = self._decode(authorization)
        if claims.get("type") != "refresh":
            raise TokenError(422, msg="Only refresh tokens are allowed")
        if claims.get("jti") != self._refresh_id:
            raise TokenError(401, message=OUTDATED)

    def check_access(self, authorization: str | None) -> None:
        """Raise TokenError unless the Authorization header holds a valid access token."""
        if authorization is None:
            raise TokenError(401, message="Missing Authorization Header")
        if self._decode(authorization).get("type") != "access":
            raise TokenError(422, msg="Only non-refresh tokens are allowed")

    def _encode(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self._secret, ALGORITHM)

    def _decode(self, authorization: str) -> dict[str, Any]:
        kind, _, token = authorization.partition(" ")
        if kind != "Bearer" or not token:
            expected = "Expected 'Authorization: Bearer <JWT>'"
            raise TokenError(
                401, msg=f"Missing 'Bearer' type in 'Authorization' header. {expected}"
            )
        try:
            return jwt.decode(token, self._secret, algorithms=[ALGORITHM], options=_CHECKS)
        except jwt.ExpiredSignatureError:
            raise TokenError(401, msg="Token has expired") from None
        except jwt.PyJWTError as error:
            raise TokenError(422, msg=str(error)) from None
