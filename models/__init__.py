"""PyTorch: data sets and scene shifts, teachers, students and label policies. Knows nothing of devices.

`datasets` loads images by name, `fetch` downloads them; `shifts` shows them as another scene would; `students` builds
what a device is to learn, `teachers` what it learns from; `training` is the float32 training both start with; `labels`
turns answers into target distributions. Nothing is imported here, so that listing data does not wait for torch.
"""
