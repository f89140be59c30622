"""Lightning modules, data modules, callbacks and optimizers."""
