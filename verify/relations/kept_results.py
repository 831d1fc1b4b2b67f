"""What a call has returned stays what it was when the kernel is called again.

A kernel that keeps its output or a workspace and gives it out twice is right at every call, and its caller's earlier
results change under his hands.
"""

from fa2verify.verify.judgement.judge import Breach
from fa2verify.verify.relations.relation import Call, bits_breach

RULE = "R4 kept results"


def kept_results(call: Call) -> Breach | None:
    """Compare what was returned with what it was; the calls in between are those of the other relations."""
    for name in call.owed:
        breach = bits_breach(
            RULE, name, getattr(call.outputs, name), getattr(call.returned, name), "the first call, after others,"
        )
        if breach:
            return breach
    return None
