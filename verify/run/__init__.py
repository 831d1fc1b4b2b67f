"""What a run consists of: its plan, and the campaign of each process, with what it leaves for the others."""
