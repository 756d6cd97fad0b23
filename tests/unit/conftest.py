"""Pictures of unit tests are so small that several threads would mostly wait for each other."""

import cv2
import torch

torch.set_num_threads(1)
cv2.setNumThreads(1)
