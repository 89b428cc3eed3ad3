"""PyTorch: data sets and scene shifts, teachers, students, curricula. Knows nothing of devices.

`datasets` loads images by name, `fetch` downloads them; `shifts` shows them as another scene would; `students` builds
what a device is to learn, `teachers` what it learns from; `training` is the float32 training both start with; `labels`
makes target distributions of class numbers, `curricula` has the parts of learning methods. Nothing is imported here, so
that listing data does not wait for torch.
"""
