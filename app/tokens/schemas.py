from pydantic import BaseModel, Field


class PublicKey(BaseModel):
    """RFC 7517, 4. EC keys have crv, x and y; RSA keys have n and e."""

    kty: str = Field(description="Key type.", examples=["EC"])
    kid: str = Field(description="Key id.", examples=["5f0c1d2e3a4b5c6d"])
    use: str = Field(description="Always `sig`, for signatures.", examples=["sig"])
    alg: str = Field(description="Algorithm.", examples=["ES256"])
    crv: str | None = Field(None, description="Curve.", examples=["P-256"])
    x: str | None = Field(None, description="x coordinate.")
    y: str | None = Field(None, description="y coordinate.")
    n: str | None = Field(None, description="Modulus.")
    e: str | None = Field(None, description="Exponent.")


class PublicKeySet(BaseModel):
    """RFC 7517, 5."""

    keys: list[PublicKey] = Field(description="Empty with HS256.")
