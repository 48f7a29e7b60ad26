"""Makes and judges bundles: train, calibrate, evaluate."""
