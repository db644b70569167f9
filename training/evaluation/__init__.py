"""What a fitted model is worth: metrics, calibration, outliers, drift reference, plots."""
