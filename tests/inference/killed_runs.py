"""Runs nndet_predict again and again in processes that are killed for good, each at another place of the work.

python killed_runs.py PLACE... -- ARGUMENTS; a PLACE is ``network:N`` or ``writing:N``: in the N-th case of that
run, while the network sees it, or between its two files.
"""

import os
import signal
import sys

from blob_detector import BlobDetector

from cmb_plugin.commands.predict import main
from cmb_plugin.models import output
from cmb_plugin.plugins import trainers
from cmb_plugin.workflows.case_prediction import CasePredictor


class BlobTrainer(BlobDetector):
    @classmethod
    def load(cls, fold, device, checkpoint="last"):
        return cls((16, 16, 16), threshold=0.05)


def killing(function, number):
    """``function``, whose N-th call kills the process before anything is done."""
    calls = []

    def call(*arguments, **named):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)

    return call


if __name__ == "__main__":
    split = sys.argv.index("--")
    trainers._registered["BlobTrainer"] = BlobTrainer
    for place in sys.argv[1:split]:
        where, _, number = place.partition(":")
        child = os.fork()  # nothing has run yet that starts threads
        if child == 0:
            if where == "network":
                CasePredictor.detect = killing(CasePredictor.detect, int(number))
            else:
                output.write_case_predictions = killing(output.write_case_predictions, int(number))
            os._exit(main(sys.argv[split + 1 :]))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
