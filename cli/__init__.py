"""The command line: `fa2verify kernels | check | report | compare`."""
