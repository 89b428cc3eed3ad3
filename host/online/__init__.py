"""The online-fix loop: the student answers, the detector asks, the teacher labels, the store keeps, the device trains,
the guard decides what is served."""
