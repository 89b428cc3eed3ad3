"""Learning methods as compositions: `Curriculum = [Stage(samples, labels, epochs, lr, trainable)]`.

`pool` is what there is to learn from, `samples` which of it in which order, `labels` and `losses` towards what, `stage`
for how long and what may move; `learner` is who learns: the float32 twin here, a device elsewhere.
"""
