"""What `benchmarks/quantization.py` measures with: tasks, their trained models, and TensorFlow's quantisation as a peer."""
