"""The run as pytest's: options, profiles and devices, and the hooks of the controlling process and of a worker."""
