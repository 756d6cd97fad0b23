"""SACD: reverse distillation with calibrated features, taught by synthetic anomalies and a contrast."""
