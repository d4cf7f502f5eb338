"""Methods of training: how a run changes the parameters, behind one small interface."""

from fastmlp.methods.choice import Choice, Optimizer, choose
from fastmlp.methods.method import PLAIN, Method, Problem, Scores, State
from fastmlp.methods.rates import Schedule

__all__ = ["PLAIN", "Choice", "Method", "Optimizer", "Problem", "Schedule", "Scores", "State", "choose"]
