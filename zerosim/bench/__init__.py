"""What is measured with a clock: collectives, a step beside its floor, PyTorch doing the same, many ranks.

Times are compared within one run only, contestants in turn, after a barrier; a repetition takes as long as its slowest
rank. All functions return JSON types, the same on all ranks: times in seconds, memory and traffic in bytes.
"""
