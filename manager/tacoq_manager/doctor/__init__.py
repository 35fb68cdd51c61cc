"""Doctor: settings in; what is wrong with all that a manager and its workers need, and what to do, out.

Read in this order: `findings`, `examine`, then what is looked at: `database`, `work`, `broker`, `door`, `results`.
"""
