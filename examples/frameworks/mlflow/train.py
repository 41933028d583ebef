"""Saves a model in the folder `model`."""

import mlflow
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

data, species = load_iris(return_X_y=True)
mlflow.sklearn.save_model(LogisticRegression(max_iter=500).fit(data, species), "model")
