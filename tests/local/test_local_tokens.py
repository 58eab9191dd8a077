"""Access and refresh tokens: claims, signatures and expiry."""

from __future__ import annotations

import jwt
import pytest

from coffea_sx.local.tokens import TokenError, Tokens

SECRET = "0123456789abcdef" * 2


def test_token_claims_are_checked():
    tokens, others = Tokens(SECRET, "one", 60), Tokens(SECRET[::-1], "one", 60)
    access = tokens.access_token()
    unsigned = jwt.encode(jwt.decode(access, SECRET, ["HS256"]), None, algorithm="none")
    tokens.check_access(f"Bearer {tokens.access_token()}")
    tokens.check_refresh(f"Bearer {tokens.refresh_token}")
    for token, status, text in [
        (others.access_token(), 422, "Signature verification failed"),
        (Tokens(SECRET, "one", -1).access_token(), 401, "Token has expired"),
        (tokens.refresh_token, 422, "Only non-refresh tokens are allowed"),
        ("garbage", 422, "Not enough segments"),
        ("a.b.c", 422, "Invalid header padding"),
        (f"{access}!!!!", 422, "Invalid crypto padding"),
        (f"{access}.x", 422, "Invalid payload padding"),
        (unsigned, 422, "The specified alg value is not allowed"),
        (jwt.encode({"type": "access"}, SECRET * 2, "HS512"), 422, "alg value is not allowed"),
    ]:
        with pytest.raises(TokenError, match=text) as caught:
            tokens.check_access(f"Bearer {token}")
        assert caught.value.status == status
    with pytest.raises(TokenError, match="outdated") as caught:
        tokens.check_refresh(f"Bearer {Tokens(SECRET, 'two', 60).refresh_token}")
    assert caught.value.status == 401
    with pytest.raises(TokenError, match="Only refresh"):
        tokens.check_refresh(f"Bearer {tokens.access_token()}")
    with pytest.raises(TokenError, match="Missing 'Bearer'"):
        tokens.check_access("Basic abc")
