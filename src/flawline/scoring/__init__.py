"""From what a graph found on a picture to a verdict: numpy, OpenCV and FAISS. Nothing here imports torch.

Training, evaluation and serving call the same functions, which is half of why they agree.
"""
