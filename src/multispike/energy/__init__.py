"""Energy per inference from recorded activity: counts -> nJ. Plain arithmetic, no torch.

`count` is the table of formulas, `profiles` the constants; `pricing` multiplies the two, `twins`
compares with ANNs of the same shape and has all prices of a run.
"""
