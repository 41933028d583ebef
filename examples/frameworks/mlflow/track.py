"""Sends a run to the tracking server at MLFLOW_TRACKING_URI, with MLFLOW_TRACKING_TOKEN."""

import mlflow

with mlflow.start_run() as run:
    mlflow.log_metric("accuracy", 0.97)

metrics = mlflow.get_run(run.info.run_id).data.metrics
print(f"accuracy: {metrics['accuracy']}")
