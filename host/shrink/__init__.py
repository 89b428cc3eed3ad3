"""Shrinking a student between two stretches of its stream: channels pruned, widths lowered, fine-tuned on the device
from what its feedback store holds. `request` says what is asked, `runner` does it, `undo` takes it back; `twin` is the
device's student in torch, `channels` what of it goes together, `criteria` (with `contributions`, `zeros`) which
channels go, `size` how many, `price` what a program takes, `tuning` the fine-tuning."""
