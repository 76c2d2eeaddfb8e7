"""From codes and noise back to images: samples, reconstructions, and the pictures of what codes hold."""
