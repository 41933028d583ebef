"""The key with which an Issuer signs tokens."""

import secrets
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm


class SigningKey:
    def __init__(self) -> None:
        self.kid = secrets.token_hex(8)
        self._private = ec.generate_private_key(ec.SECP256R1())

    def sign(self, claims: dict[str, Any]) -> str:
        headers = {"kid": self.kid, "typ": "at+jwt"}
        return jwt.encode(claims, self._private, "ES256", headers)

    def public_jwk(self) -> dict[str, Any]:
        jwk: dict[str, Any] = ECAlgorithm.to_jwk(self._private.public_key(), as_dict=True)
        return {**jwk, "kid": self.kid, "use": "sig", "alg": "ES256"}
