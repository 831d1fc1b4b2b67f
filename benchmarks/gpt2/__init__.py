"""GPT-2's training, which `bench_gpt2.py` measures.

To be read in this order: `plan` says what is trained, `lanes` in which processes, `process` what one of them does, and
`training` how one training is run and timed. The model, its attentions, its optimizer and the turn on the GPU are parts
of that, a file each.
"""
