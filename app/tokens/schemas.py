from pydantic import BaseModel, Field


class PublicKey(BaseModel):
    """RFC 7517, 4. EC keys have crv, x and y; RSA keys have n and e."""

    kty: str = Field(examples=["EC"])
    kid: str = Field(examples=["5f0c1d2e3a4b5c6d"])
    use: str = Field(examples=["sig"])
    alg: str = Field(examples=["ES256"])
    crv: str | None = Field(None, examples=["P-256"])
    x: str | None = None
    y: str | None = None
    n: str | None = None
    e: str | None = None


class PublicKeySet(BaseModel):
    """RFC 7517, 5."""

    keys: list[PublicKey]
