"""Other projects' attention kernels, an adapter each."""
