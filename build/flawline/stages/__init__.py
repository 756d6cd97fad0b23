"""What the Triton stages run: numpy, OpenCV, FAISS and a graph runtime. Nothing here imports torch.

Training, evaluation and serving call the same functions, which is half of why they agree.
"""
