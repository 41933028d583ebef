"""Predicts how likely it is that a patient has a heart disease. Only users of Hourpass can call it,
and it records each prediction with its user.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import joblib
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from hourpass import Guard, User

KEPT = 100_000  # predictions; the oldest make room

place = Path(os.environ.get("HEART_DIRECTORY", Path(__file__).parent))
classifier = joblib.load(place / "heart.joblib")  # by train.py: never load one from a stranger
guard = Guard(os.environ.get("HOURPASS_URL", "http://127.0.0.1:8000"))
Caller = Annotated[User, Depends(guard)]

app = FastAPI(title="Heart failure API")
guard.protect(app, public=["/docs", "/openapi.json"])


class Patient(BaseModel):
    """Its members are in the order of the columns that the classifier was trained on."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [
                {
                    "age": 67,
                    "sex": 1,
                    "cp": 4,
                    "trestbps": 160,
                    "chol": 286,
                    "fbs": 0,
                    "restecg": 2,
                    "thalach": 108,
                    "exang": 1,
                    "oldpeak": 1.5,
                    "slope": 2,
                    "ca": 3,
                    "thal": "normal",
                }
            ]
        },
    )

    age: int = Field(ge=1, le=120, description="Years.")
    sex: int = Field(ge=0, le=1, description="1 male, 0 female.")
    cp: int = Field(ge=1, le=4, description="Chest pain: 1 typical … 4 none.")
    trestbps: int = Field(ge=50, le=300, description="Blood pressure at rest, mm Hg.")
    chol: int = Field(ge=50, le=1000, description="Cholesterol, mg/dl.")
    fbs: int = Field(ge=0, le=1, description="1 if fasting blood sugar is above 120 mg/dl.")
    restecg: int = Field(ge=0, le=2, description="Electrocardiogram at rest.")
    thalach: int = Field(ge=40, le=250, description="Highest heart rate reached.")
    exang: int = Field(ge=0, le=1, description="1 if exercise brings chest pain.")
    oldpeak: float = Field(ge=0, le=10, description="ST depression by exercise.")
    slope: int = Field(ge=1, le=3, description="Slope of the ST segment at the peak.")
    ca: int = Field(ge=0, le=3, description="Large vessels that fluoroscopy shows.")
    thal: Literal["normal", "fixed", "reversible"] = Field(description="Defect in the scan.")


class Prediction(BaseModel):
    at: datetime
    probability: float


@app.post("/predict")
def predict(patient: Patient, user: Caller) -> Prediction:
    """FastAPI runs this in a thread, so that other requests do not wait for it."""
    values: list[Any] = [list(patient.model_dump().values())]
    probability = float(classifier.predict_proba(values)[0, 1])
    prediction = Prediction(at=datetime.now(UTC), probability=round(probability, 3))
    with _records() as records:
        written = records.execute(
            "INSERT INTO predictions (at, user_id, username, patient, probability)"
            " VALUES (?, ?, ?, ?, ?)",
            (
                prediction.at.isoformat(),
                user.id,
                user.username,
                patient.model_dump_json(),
                prediction.probability,
            ),
        )
        records.execute("DELETE FROM predictions WHERE id <= ?", ((written.lastrowid or 0) - KEPT,))
    return prediction


@app.get("/predictions")
def list_predictions(user: Caller) -> list[Prediction]:
    """Your last hundred predictions, the newest first."""
    with _records() as records:
        rows = records.execute(
            "SELECT at, probability FROM predictions WHERE user_id = ? ORDER BY id DESC LIMIT 100",
            (user.id,),
        ).fetchall()
    return [Prediction(at=at, probability=probability) for at, probability in rows]


@app.exception_handler(RequestValidationError)
async def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
    """The response says what is wrong and where. FastAPI's own would repeat a patient's data."""
    fields = [
        {"field": problem["loc"][-1], "message": problem["msg"]} for problem in error.errors()
    ]
    return JSONResponse({"message": "Invalid request", "fields": fields}, 422)


@contextmanager
def _records() -> Iterator[sqlite3.Connection]:
    """A transaction on the file of predictions."""
    with closing(sqlite3.connect(place / "predictions.db", timeout=10)) as records, records:
        yield records


with _records() as new:
    new.execute("PRAGMA journal_mode=WAL")
    new.execute(
        "CREATE TABLE IF NOT EXISTS predictions (id INTEGER PRIMARY KEY AUTOINCREMENT,"
        " at TEXT, user_id INTEGER, username TEXT, patient TEXT, probability REAL)"
    )
