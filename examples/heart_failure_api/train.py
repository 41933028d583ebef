"""Trains a classifier on the Cleveland heart disease data, and writes it to a file."""

import sys
from pathlib import Path

import joblib
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklego.datasets import load_hearts

patients, is_ill = load_hearts(return_X_y=True)  # 303 of them, in the columns of api.Patient
kinds = [2, 6, 10, 12]  # cp, restecg, slope and thal have no order
quantities = [column for column in range(patients.shape[1]) if column not in kinds]
classifier = make_pipeline(
    ColumnTransformer(
        [
            ("kinds", OneHotEncoder(handle_unknown="ignore"), kinds),
            ("quantities", StandardScaler(), quantities),
        ]
    ),
    LogisticRegression(max_iter=1_000),
)
accuracy = cross_val_score(classifier, patients, is_ill, cv=10).mean()
path = Path(sys.argv[1])
joblib.dump(classifier.fit(patients, is_ill), path)
print(f"Trained on {len(patients)} patients, right about {accuracy:.0%} of those it had not seen.")
