"""Scripts that measure, by purpose; run them from the root of the repository.

``studies/`` train networks and compare them, ``speed/`` measures seconds and memory, ``accuracy/`` how right a part is
against a truth; ``tools/`` makes what others need and holds what the scripts share.
"""
