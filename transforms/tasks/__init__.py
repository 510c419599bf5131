"""Tasks, answer schemas, model profiles and cost forecasts."""
